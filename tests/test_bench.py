"""The benchmark runs, and its two clients find out servers that lie: what cannot fail measures nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from bench import run
from usbferry.registry import DEVICES
from usbferry.usb import build
from usbferry.usb.tree import Configuration, DeviceDescriptor, Endpoint, Interface
from usbferry.usb.types import TransferType

HEADER = struct.Struct(">10I8s")  # command, seqnum, devid, direction, endpoint, flags or status, length, ...
CSW = struct.Struct("<4sIIB")  # signature, tag, residue, status
HONEST_ANSWERS = 10  # before the lies begin
DEVICE = struct.pack(">3I3H6B", 1, 2, 3, 0x1209, 0x0001, 0x0100, 0, 0, 0, 1, 1, 1)  # what follows its name
DESCRIPTORS = {  # by the start of the request
    bytes((0x80, 6, 0, 1)): build.device(DeviceDescriptor(0x1209, 0x0001)),
    bytes((0x80, 6, 0, 2)): build.configuration(
        Configuration(1, (Interface(0, endpoints=tuple(Endpoint(a, TransferType.BULK, 512) for a in (0x81, 0x01))),))
    ),
}

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CC", "cc").split()[0], "gcc", "clang"))), reason="needs a C compiler"
)


class Submit(NamedTuple):
    seqnum: int
    is_in: int
    length: int
    payload: bytes


Answer = Callable[[Submit], Iterable[bytes]]  # what the server sends


def reply(seqnum: int, length: int, payload: bytes = b"", *, command: int = 3, status: int = 0) -> bytes:
    return HEADER.pack(command, seqnum, 0, 0, 0, status & 0xFFFFFFFF, length, 0, 0xFFFFFFFF, 0, bytes(8)) + payload


def honest(submit: Submit) -> list[bytes]:
    return [reply(submit.seqnum, submit.length, bytes(submit.length * submit.is_in))]


@contextmanager
def serving(answer: Answer, at_the_end: bytes = b"") -> Iterator[int]:
    """The port of a USB/IP server for one importer, which says `at_the_end` when the importer has finished."""

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as received:
            received.read(40)
            connection.sendall(bytes.fromhex("0111 0003 00000000") + bytes(256) + b"1-1".ljust(32, b"\0") + DEVICE)
            while len(head := received.read(HEADER.size)) == HEADER.size:
                _, seqnum, _, is_in, _, _, length, *_, setup = HEADER.unpack(head)
                if setup[:4] in DESCRIPTORS:
                    descriptor = DESCRIPTORS[setup[:4]][:length]
                    connection.sendall(reply(seqnum, len(descriptor), descriptor))
                    continue
                for piece in answer(Submit(seqnum, is_in, length, b"" if is_in else received.read(length))):
                    connection.sendall(piece)
            connection.sendall(at_the_end)

    def serve_one() -> None:
        with suppress(OSError):  # `load` had enough
            serve()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve_one)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bench")
    run.build(directory)
    return directory


def load(programs: Path, port: int, words: str) -> subprocess.CompletedProcess[str]:
    command = [str(programs / "load"), str(port), "1-1", *words.split()]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


# -- many in flight ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("words", ["in 1 64 4 0.02", "out 1 64 4 0.02", "control 0 18 4 0.02"])
def test_load_counts_what_an_honest_server_answers(programs: Path, words: str) -> None:
    with serving(honest) as port:
        ran = load(programs, port, words)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["answers"] > 10
    assert said["mb_per_second"] == pytest.approx(said["per_second"] * int(words.split()[2]) / 1e6, rel=0.01)
    assert 0 < said["p50_us"] <= said["p99_us"]


def cut_short(submit: Submit) -> Iterator[bytes]:
    yield reply(submit.seqnum, submit.length)[:30]
    raise ConnectionAbortedError


LIES: dict[str, tuple[Answer, str]] = {
    "a seqnum never sent": (lambda s: honest(s._replace(seqnum=s.seqnum + 1000)), "not in flight"),
    "a seqnum answered before": (lambda s: honest(s._replace(seqnum=s.seqnum - 4)), "not in flight"),
    "seqnum 0": (lambda s: honest(s._replace(seqnum=0)), "not in flight"),
    "an answer twice": (lambda s: honest(s) * 2, "not in flight"),
    "a byte less": (lambda s: honest(s._replace(length=63)), "63 bytes done of 64"),
    "a byte more": (lambda s: honest(s._replace(length=65)), "65 bytes done of 64"),
    "no bytes": (lambda s: honest(s._replace(length=0)), "0 bytes done of 64"),
    "a length below 0": (lambda s: [reply(s.seqnum, 0xFFFFFFFF)], "bytes done of 64"),
    "an error": (lambda s: [reply(s.seqnum, 0, status=-32)], "status -32"),
    "RET_UNLINK": (lambda s: [reply(s.seqnum, 64, command=4)], "command 0x4"),
    "no header": (lambda s: [b"\xff" * HEADER.size], "command 0xffffffff"),
    "half an answer": (cut_short, "answers missing"),
}


@pytest.mark.parametrize("mode", ["in", "out"])
@pytest.mark.parametrize("lie", LIES)
def test_load_finds_out(programs: Path, lie: str, mode: str) -> None:
    answer, complaint = LIES[lie]
    with serving(lambda submit: (honest if submit.seqnum <= HONEST_ANSWERS else answer)(submit)) as port:
        ran = load(programs, port, f"{mode} 1 64 4 5")
    assert ran.returncode == 1
    assert complaint in ran.stderr
    assert not ran.stdout


def test_load_finds_one_answer_too_many_at_the_end(programs: Path) -> None:
    with serving(honest, at_the_end=reply(1, 64)) as port:
        ran = load(programs, port, "out 1 64 4 0.02")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "after the last answer" in ran.stderr


# -- our own client ----------------------------------------------------------------------------------------------------


def client(port: int, words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(run.HERE / "client.py"), str(port), "1-1", *words.split()]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["in 1 64 4 0.2", "out 1 64 4 0.2", "sync-in 1 64 1 0.2", "sync-out 1 64 1 0.2"])
def test_client_counts_what_an_honest_server_answers(words: str) -> None:
    with serving(honest) as port:
        ran = client(port, words)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["answers"] > 10
    assert said["mb_per_second"] == pytest.approx(said["per_second"] * 64 / 1e6)
    assert said["mean_us"] == pytest.approx(1e6 / said["per_second"])
    assert 0 < said["p50_us"] <= said["p99_us"]


CLIENT_LIES = {
    "a seqnum never sent": "reading 64 bytes from endpoint 0x81: the device is gone: it broke usbip: a reply to #",
    "a byte less": "63 bytes done of 64",
    "a byte more": "endpoint 0x81: the device is gone: it broke usbip: 65 bytes done of a transfer of 64",
    "an error": "reading 64 bytes from endpoint 0x81: the endpoint is halted, or not there in the settings in force",
    "half an answer": "reading 64 bytes from endpoint 0x81: the device is gone: ",
}


@pytest.mark.parametrize("mode", ["in", "sync-in"])
@pytest.mark.parametrize("lie", CLIENT_LIES)
def test_client_finds_out(lie: str, mode: str) -> None:
    answer, _ = LIES[lie]
    with serving(lambda submit: (honest if submit.seqnum <= HONEST_ANSWERS else answer)(submit)) as port:
        ran = client(port, f"{mode} 1 64 {4 if mode == 'in' else 1} 5")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert CLIENT_LIES[lie] in ran.stderr


# -- mass storage -----------------------------------------------------------------------------------------------------


class Disk:
    """A disk of 64 blocks for `serving`. Its first command ends with a unit attention; `spoil` lies about reads."""

    def __init__(self, spoil: Callable[[bytes], bytes] = lambda csw: csw, data_bytes: int = 4096) -> None:
        self._spoil = spoil
        self._data_bytes = data_bytes
        self._queue: list[bytes] = []
        self._attention = True

    def __call__(self, submit: Submit) -> list[bytes]:
        if not submit.is_in:
            if submit.length:
                self._command(submit.payload)
            return [reply(submit.seqnum, submit.length)]
        data = self._queue.pop(0)
        return [reply(submit.seqnum, len(data), data)]

    def _command(self, cbw: bytes) -> None:
        tag, code = int.from_bytes(cbw[4:8], "little"), cbw[15]
        csw = CSW.pack(b"USBS", tag, 0, int(code == 0x00 and self._attention))
        self._attention = False
        data = {0x00: b"", 0x03: bytes(18), 0x25: bytes.fromhex("0000003f 00000200"), 0x28: bytes(self._data_bytes)}
        self._queue = [piece for piece in (data[code], self._spoil(csw) if code == 0x28 else csw) if piece]


def test_load_reads_an_honest_disk(programs: Path) -> None:
    with serving(Disk()) as port:
        ran = load(programs, port, "disk 1 2 4096 0.02")
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["answers"] > 10
    assert said["mean_us"] * said["answers"] == pytest.approx(said["seconds"] * 1e6, rel=0.01)


DISK_LIES = {
    "a tag of another command": (Disk(lambda csw: csw[:4] + b"\xff" + csw[5:]), "no CSW"),
    "no signature": (Disk(lambda csw: b"USBC" + csw[4:]), "no CSW"),
    "a short CSW": (Disk(lambda csw: csw[:12]), "no CSW"),
    "a failure": (Disk(lambda csw: csw[:12] + b"\1"), "status 1"),
    "a residue": (Disk(lambda csw: csw[:8] + b"\1" + csw[9:]), "residue 1"),
    "a short block": (Disk(data_bytes=4095), "4095 bytes of 4096"),
    "a long block": (Disk(data_bytes=4097), "4097 bytes done"),
}


@pytest.mark.parametrize("lie", DISK_LIES)
def test_load_finds_out_a_disk(programs: Path, lie: str) -> None:
    disk, complaint = DISK_LIES[lie]
    with serving(disk) as port:
        ran = load(programs, port, "disk 1 2 4096 5")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert complaint in ran.stderr


# -- the whole --------------------------------------------------------------------------------------------------------


def bench(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, run.__file__, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def test_an_answer_that_a_client_finds_wrong_ends_the_benchmark(programs: Path) -> None:
    answer, complaint = LIES["an error"]
    with serving(answer) as port, pytest.raises(run.Failed, match=rf"^load {port} .*: load: {complaint}"):
        run.measure([str(programs / "load"), str(port), run.ZERO, *run.ROUND_TRIP.load], 5)


# What a target of ferry answers to the calls of `load`: (identifier, number, length asked for) -> records.
Target = Callable[[int, int, int], bytes]


def told(identifier: int, body: bytes = b"", status: int = 0) -> bytes:
    return struct.pack(">III", 8 + len(body), identifier, status) + body


def honest_target(identifier: int, number: int, length: int) -> bytes:
    match number:
        case 1:  # VERSION: a window of 16 calls
            return told(identifier, struct.pack(">II8sHHIII", 1, 15, bytes(8), 5, 30, 16, 1 << 20, 1 << 20))
        case 3:  # CLAIM
            return told(identifier, bytes(16))
        case 4:  # RELEASE, and so the end of HOLD
            return told(identifier) + told(1 << 31 | 2)
        case 22:  # HOLD
            return b""
    return told(identifier, bytes(length))


@contextmanager
def a_target(answer: Target) -> Iterator[int]:
    """The port of a target for one controller that only reads; its calls beyond the window it does not answer."""

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as received:
            room = 16
            while len(head := received.read(12)) == 12:
                size, identifier, word = struct.unpack(">III", head)
                body, number = received.read(size - 8), word >> 24
                if number == 6:
                    room -= 1
                    assert room >= 0, "more calls than were granted"
                if number == 21:
                    first, last = struct.unpack(">II", body)
                    room += last - first + 1
                connection.sendall(answer(identifier, number, int.from_bytes(body[:4], "big") if number == 6 else 0))

    def serve_one() -> None:
        with suppress(OSError):
            serve()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve_one)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def load_ferry(programs: Path, answer: Target, seconds: float) -> subprocess.CompletedProcess[str]:
    with a_target(answer) as port:
        command = [str(programs / "load"), str(port), "ferry:1-1", "in", "1", "64", "8", str(seconds)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_load_keeps_within_the_window_of_an_honest_target(programs: Path) -> None:
    ran = load_ferry(programs, honest_target, 0.2)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["answers"] > 32  # twice the window


@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        (lambda identifier, length: told(identifier + 1, bytes(length)), "identifier 12, due is 11"),
        (lambda identifier, length: told(identifier, bytes(length - 1)), "63 bytes done of 64"),
        (lambda identifier, length: told(identifier, b"", 257), "status 257"),
        (lambda identifier, length: 2 * told(identifier, bytes(length)), "seqnum 11 is not in flight"),
        (lambda identifier, length: struct.pack(">III", 7, identifier, 0), "a record of 7 bytes"),
    ],
)
def test_load_finds_out_a_target(programs: Path, lie: Callable[[int, int], bytes], complaint: str) -> None:
    def lying(identifier: int, number: int, length: int) -> bytes:
        return lie(identifier, length) if identifier == 11 else honest_target(identifier, number, length)

    ran = load_ferry(programs, lying, 5)
    assert ran.returncode == 1
    assert complaint in ran.stderr


def test_what_the_relay_s_kernel_is_answered_wrongly_ends_the_benchmark() -> None:
    short = serving(lambda submit: [reply(submit.seqnum + 1, submit.length, bytes(submit.length))])
    with short as port, pytest.raises(run.Failed, match=r"relay.py .*: relay: answered wrongly: 00000003"):
        run.measure([sys.executable, str(run.HERE / "relay.py"), str(port), run.ZERO, "64", "1"], 0.1)


@pytest.mark.alone
def test_every_case_is_measured(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    words = ("--rounds", "1", "--seconds", "0.02", "--loop", "asyncio", "--idle", "20", "--json", str(result))
    ran = bench(*words)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(result.read_text())
    rows = {row["work"]: row for row in report["rows"]}
    expected = {case.work for case in run.CASES if case.busid != run.DISK or "disk" in DEVICES}
    relayed = {case.work for case in run.RELAY_CASES}
    ferried = {case.work for case in (*run.FERRY_CASES, *run.HOP_CASES)}
    assert set(rows) == {*expected, *relayed, *ferried, "20 idle imported devices"}
    expected |= ferried
    assert all(rows[work]["usbferry"] > 0 for work in relayed)
    for work in expected:
        assert rows[work]["ratio"] == pytest.approx(rows[work]["usbferry"] / rows[work]["floor"])
        assert work in ran.stdout
    assert report["python"].endswith(".".join(map(str, sys.version_info[:3])))


def test_only_check_makes_a_missed_target_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    missed = run.Row("64 B round trip", "asyncio", "us", 10.0, 30.0, 3.0, 2.0, False, False, {})
    monkeypatch.setattr(run, "run", lambda chosen: [missed])
    assert run.main([]) == 0
    assert run.main(["--check"]) == 1
    assert "MISSED" in run.table([missed])


def test_a_missing_compiler_is_one_line(tmp_path: Path) -> None:
    ran = bench("--idle", "0", "--json", str(tmp_path / "no.json"), CC="no-such-compiler")
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "apt-get install gcc" in ran.stderr
