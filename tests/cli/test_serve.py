"""`usbferry serve` as a user runs it: what it says, how it ends, and one line for each thing that cannot be."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli.served import served, start
from usbferry.cli import serve as module
from usbferry.cli.serve import command, loop_factory, parse_endpoint
from usbferry.device import Claimant, DeviceError
from usbferry.local import state
from usbferry.registry import open_source
from usbferry.usb.transfer import Transfer
from usbferry.usb.types import Status

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")
ME = Claimant("local")
SOCKET_SCHEMES = ("ferry", "ferry+seqpacket", "usbredir")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("USBFERRY_LOOP", raising=False)
    return tmp_path


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody listens on, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        yield f"127.0.0.1:{busy.getsockname()[1]}"


# --- where to listen --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:3240", ("127.0.0.1", 3240)),
        ("host", ("host", 3240)),
        (":4000", ("", 4000)),
        ("[::1]:0", ("::1", 0)),
        ("[::1]", ("::1", 3240)),
        ("::1", ("::1", 3240)),
        ("::", ("::", 3240)),
        ("fe80::1%eth0", ("fe80::1%eth0", 3240)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
    ],
)
def test_endpoints(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize("text", ["", "host:", "host:port", "host:65536", "host:-1", "[::1]:", ":", "host:٣٢٤٠0000"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="write it as HOST:PORT"):
        parse_endpoint(text)


# --- one line, and exit status 2 --------------------------------------------------------------------------------------


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2, result.output
    assert result.output.startswith("usbferry serve: ")
    assert result.output.count("\n") == 1, result.output
    return result.output.removeprefix("usbferry serve: ").rstrip("\n")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("zero", "'zero' is no address: write it as virtual:zero, or usbip://zero if it is a machine"),
        ("carrier:pigeon", "'carrier'; there are: "),
        ("virtual:nothing", "no virtual device 'nothing'; there are: "),
        ("virtual:Zeor", "no virtual device 'Zeor'; did you mean zero? There are: "),
        ("ubsip://lab", "no kind of address 'ubsip'; did you mean usbip? There are: "),
        ("virtual:zero?speed=warp", "'warp' is none of low, full, high, super, super+"),
        ("virtual:zero?colour=red", "zero has no option 'colour'; it has: speed, pattern, serial, fault"),
        ("virtual:disk?image=/nowhere/stick.img", "/nowhere/stick.img"),
        ("usbip://", "'usbip://' is no address, write it as usbip://HOST[:PORT][/DEVICE]"),
        ("usbip://127.0.0.1:1", "no connection to 127.0.0.1:1: Connection refused; is a server running there?"),
    ],
)
def test_an_address_that_cannot_be_served(address: str, text: str) -> None:
    assert text in refused(address, "--listen", "127.0.0.1:0")


def test_a_port_that_is_in_use(taken: str) -> None:
    text = refused("virtual:zero", "--listen", taken)
    assert text == f"cannot listen on {taken}: the port is in use; choose another with --listen, 0 for any free one"


@pytest.mark.parametrize("option", [("--listen", "{}"), ("--on", "ferry://{}")])
def test_the_process_of_ours_that_has_a_port_is_named(option: tuple[str, str], runtime: Path) -> None:
    with served("virtual:zero", runtime=runtime) as one:
        [here] = one.listening
        text = refused("virtual:zero", option[0], option[1].format(here))
    remedy = f"end usbferry's process {one.process.pid}, or choose another with {option[0]}, 0 for any free one"
    assert text == f"cannot listen on {here}: the port is in use; {remedy}"


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("192.0.2.1:4000", "cannot listen on 192.0.2.1:4000: this machine has no such address"),
        ("[2001:db8::1]:4000", "cannot listen on [2001:db8::1]:4000: "),
        ("127.0.0.1:port", "write it as HOST:PORT"),
        ("3241", "--listen '3241': write it as :3241 for every interface, or as 127.0.0.1:3241"),
    ],
)
def test_an_address_that_cannot_be_listened_on(where: str, text: str) -> None:
    assert text in refused("virtual:zero", "--listen", where)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("--on", "usbredir://127.0.0.1:x"),
            "'usbredir://127.0.0.1:x' is no address, write it as usbredir://HOST:PORT",
        ),
        (("--on", "http://:1"), "--on 'http://:1': write it as PROTOCOL://..., with one of: ferry, usbip, usbredir"),
        (("--on", "usbip:///x"), "'usbip:///x': usbip has no socket files, write it as usbip://HOST:PORT"),
        (("--on", "ferry://:1/1-1"), "--on 'ferry://:1/1-1': ferry serves every device; leave out /1-1"),
        (
            ("--on", "usbredir://:1?buffer=0.2"),
            "--on 'usbredir://:1?buffer=0.2': leave out buffer=0.2; a server's buffer is --buffer SECONDS",
        ),
        (
            ("--to", "usbredir:///run/vm?mode=666"),
            "--to 'usbredir:///run/vm?mode=666': leave out mode=666; who listens there makes the file",
        ),
        (
            ("--to", "usbredir://vm:4000?mode=666"),
            "--to 'usbredir://vm:4000?mode=666': leave out mode=666; only a socket file has a mode",
        ),
        (("--to", "ferry://vm"), "--to 'ferry://vm': write it as PROTOCOL://..., with one of: usbredir"),
        (("--on", "usbredir://192.0.2.1:1"), "cannot listen on 192.0.2.1:1: this machine has no such address"),
        (("--on", "usbredir://:0/1-7"), "there is no device '1-7' here, there are: 1-1"),
        (
            ("--to", "usbredir://:4000"),
            "--to 'usbredir://:4000': name the host to connect to, as in usbredir://vm:4000",
        ),
        (("virtual:zero", "--to", "usbredir://vm"), "say which device, as in usbredir://vm:4000/1-1; there are: 1-1"),
        (("virtual:zero", "--on", "usbredir:///vm"), "which device, as in usbredir:///vm?device=1-1; there are: 1-1"),
    ],
)
def test_a_port_of_another_protocol_that_cannot_be(arguments: tuple[str, ...], text: str) -> None:
    assert text in refused("virtual:zero", *arguments)


def test_a_port_of_another_protocol_that_is_in_use(taken: str) -> None:
    text = refused("virtual:zero", "--on", f"usbredir://{taken}")
    assert text == f"cannot listen on {taken}: the port is in use; choose another with --on, 0 for any free one"


@pytest.mark.skipif(sys.platform != "linux", reason="sockets that keep borders")
@pytest.mark.parametrize("scheme", ["ferry", "ferry+seqpacket"])
def test_a_socket_file_that_cannot_be_had(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "f.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        text = refused("virtual:zero", "--on", f"{scheme}://{path}")
    assert text == f"cannot listen on {path}: another server listens at this file; choose another with --on"
    path.unlink()
    path.write_text("mine")
    text = refused("virtual:zero", "--on", f"{scheme}://{path}")
    assert text == f"cannot listen on {path}: the file is there and is no socket; choose another with --on"
    assert path.read_text() == "mine"
    text = refused("virtual:zero", "--on", f"{scheme}://{tmp_path}/none/f.sock")
    where = f"{tmp_path}/none"
    assert text == f"cannot listen on {where}/f.sock: there is no folder {where}; choose another with --on, or make it"


@pytest.mark.skipif(sys.platform != "linux", reason="sockets that keep borders")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_socket_files_go_with_the_server(loop: str, runtime: Path, tmp_path: Path) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    files = [tmp_path / "a.sock", tmp_path / "b.sock", tmp_path / "c.sock"]
    on = [f"--on={scheme}://{path}" for scheme, path in zip(SOCKET_SCHEMES, files, strict=True)]
    with served("virtual:zero", *on, runtime=runtime, USBFERRY_LOOP=loop) as server:
        assert all(path.is_socket() for path in files)
        assert server.end() == 0
    assert not any(path.exists() for path in files)


def test_what_cannot_be_is_one_line_of_a_process_too(runtime: Path) -> None:
    process = start("virtual:zero", "--listen", "192.0.2.1:4000", runtime=runtime)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said.count("\n")) == (2, 1), said


def test_an_event_loop_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USBFERRY_LOOP", "spaghetti")
    assert refused("virtual:zero") == "USBFERRY_LOOP=spaghetti is none of auto, asyncio, uvloop"
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setenv("USBFERRY_LOOP", "uvloop")
    assert re.fullmatch(
        r"USBFERRY_LOOP=uvloop, and it is not installed: \S.* install .*uvloop", refused("virtual:zero")
    )
    assert loop_factory("auto") is None
    assert loop_factory("asyncio") is None


def test_an_address_is_missing() -> None:
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2
    assert "name an ADDRESS, or say --match SELECTOR" in result.output


def test_a_broken_server_at_the_other_end_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(8)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                peer.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        where = f"127.0.0.1:{server.getsockname()[1]}"
        text = refused(f"usbip://{where}", "--listen", "127.0.0.1:0")
        thread.join()
    assert text == f"{where}: it does not speak USB/IP, it says 'HTTP/1.1 400 Bad Request'; is the port right?"


# --- a server from its first line to its end --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_what_it_shares_and_ends_when_told_to(number: int, runtime: Path) -> None:
    with served("virtual:zero", "virtual:zero?serial=two", runtime=runtime) as server:
        assert server.lines[:2] == [
            "1-1 0525:a4a0 usbferry Gadget Zero  (virtual:zero)",
            "1-2 0525:a4a0 usbferry Gadget Zero  (virtual:zero?serial=two)",
        ]
        assert re.fullmatch(r"listening on 127\.0\.0\.1:\d+", server.lines[2])
        assert [one["pid"] for one in state.read()] == [server.process.pid]
        assert server.end(number) == 0
    assert server.rest == ""
    assert list((runtime / "usbferry").iterdir()) == []


async def test_the_end_reaches_who_is_connected(runtime: Path) -> None:
    with served("virtual:zero", runtime=runtime) as server:
        device = await open_source(server.address).open("1-1", ME)
        parked = device.submit(Transfer(0x82, 512))
        assert isinstance(parked, asyncio.Future)
        assert await asyncio.to_thread(server.end) == 0
        assert (await parked).status in (Status.SHUTDOWN, Status.GONE)
        assert await device.gone
        await device.close()
        with pytest.raises(DeviceError, match="Connection refused"):
            await open_source(server.address).open("1-1", ME)
    assert server.rest == ""


def test_it_can_be_stopped_before_it_listens(runtime: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"usbip://127.0.0.1:{silent.getsockname()[1]}"
        process = start(where, "--listen", "127.0.0.1:0", runtime=runtime)
        peer, _ = silent.accept()
        with peer:
            assert peer.recv(8, socket.MSG_WAITALL)  # now it waits for an answer that never comes
            process.terminate()
            _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (143, "")


def test_ipv6(runtime: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with served("virtual:zero", "--listen", "[::1]:0", runtime=runtime) as server:
        assert re.fullmatch(r"\[::1\]:\d+", server.listening[0])
        [found] = asyncio.run(open_source(server.address).list())
        assert found.name == "1-1"


def test_listening_beyond_this_machine_brings_a_note(runtime: Path) -> None:
    with served("virtual:zero", "--listen", "0.0.0.0:0", runtime=runtime) as server:
        assert any("USB/IP has no passwords" in line for line in server.lines)
        assert server.listening[0].startswith("0.0.0.0:")


async def test_verbose_says_who_comes_and_goes(runtime: Path) -> None:
    with served("virtual:zero", "-v", runtime=runtime) as server:
        device = await open_source(server.address).open("1-1", ME)
        await device.close()
        await asyncio.to_thread(server.end)
    assert re.search(r"^I usbferry\.server\.pump: 1-1 imported by 127\.0\.0\.1:\d+$", server.rest, re.MULTILINE)
    assert "1-1 released by" in server.rest


async def test_more_verbose_says_every_transfer(runtime: Path) -> None:
    with served("virtual:zero", "-vv", runtime=runtime) as server:
        device = await open_source(server.address).open("1-1", ME)
        answer = device.submit(Transfer(0x81, 512))
        assert isinstance(answer, asyncio.Future)
        await answer
        await device.close()
        await asyncio.to_thread(server.end)
    assert re.search(r"> 1-1 #\d+ in 81 512$", server.rest, re.MULTILINE)
    assert re.search(r"< 1-1 #\d+ ok 512$", server.rest, re.MULTILINE)


def test_without_a_place_for_its_state_it_serves_all_the_same(runtime: Path) -> None:
    (runtime / "usbferry").write_text("in the way")
    with served("virtual:zero", runtime=runtime) as server:
        assert [d.name for d in asyncio.run(open_source(server.address).list())] == ["1-1"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_either_event_loop(loop: str, runtime: Path) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with served("virtual:zero", runtime=runtime, USBFERRY_LOOP=loop) as server:
        device = await open_source(server.address).open("1-1", ME)
        await device.close()


# --- usbredir ---------------------------------------------------------------------------------------------------------


async def test_a_port_without_usbip(runtime: Path) -> None:
    """Where another protocol is asked for, USB/IP is not."""
    address = f"usbredir://{runtime}/vm.sock"
    process = start("virtual:zero", "--on", address, runtime=runtime)
    assert process.stderr is not None
    try:
        assert process.stderr.readline().startswith("1-1 0525:a4a0")
        assert process.stderr.readline() == f"listening on {address}\n"
        device = await open_source(address).open("", ME)
        assert device.info.product == "Gadget Zero"
        await device.close()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


async def test_a_device_on_a_port_of_its_own(runtime: Path) -> None:
    with served("virtual:keyboard", "virtual:zero", "--on", "usbredir://127.0.0.1:0/1-2", runtime=runtime) as server:
        device = await open_source(server.listening[0]).open("", ME)
        assert device.info.product == "Gadget Zero"
        await device.close()


def test_a_port_beyond_this_machine_brings_a_note(runtime: Path) -> None:
    with served("virtual:zero", "--on", "usbredir://0.0.0.0:0", runtime=runtime) as server:
        assert "note: usbredir has no passwords; whoever reaches this port can use the device" in server.lines


# --- ferry ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_every_device_over_ferry_and_from_there_over_usbip(runtime: Path) -> None:
    with served("virtual:keyboard", "virtual:zero", "--on", "ferry://127.0.0.1:0", runtime=runtime) as first:
        [address] = first.listening
        assert [info.product for info in await open_source(address).list()] == ["Keyboard", "Gadget Zero"]
        with served(f"{address}/1-2", runtime=runtime) as second:
            device = await open_source(second.address).open("1-1", ME)
            [_, zero] = await open_source(address).list()
            assert zero.holder.startswith("127.0.0.1:")
            answer = device.submit(Transfer(0x81, 300_000))
            assert isinstance(answer, asyncio.Future)
            assert len((await answer).data) == 300_000
            await device.close()


async def test_a_server_that_ends_says_so_to_those_who_would_wait_for_it(runtime: Path) -> None:
    process = start("virtual:zero", "--on", "ferry://127.0.0.1:0", runtime=runtime)
    assert process.stderr is not None
    try:
        process.stderr.readline()
        address = process.stderr.readline().strip().removeprefix("listening on ")
        device = await open_source(address).open("1-1", ME)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await device.gone == "the device has left the server"
        assert await asyncio.to_thread(process.wait, 15) == 0
        await device.close()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


# --- a gateway --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_device_of_another_server_is_passed_on(runtime: Path) -> None:
    with served("virtual:zero", runtime=runtime) as first, served(first.address, runtime=runtime) as second:
        assert second.lines[0] == f"1-1 0525:a4a0  ({first.address})"
        device = await open_source(second.address).open("1-1", ME)
        assert device.info.product == "Gadget Zero"
        wrote = device.submit(Transfer(0x02, 5, b"hello"))
        read = device.submit(Transfer(0x82, 512))
        assert isinstance(wrote, asyncio.Future)
        assert isinstance(read, asyncio.Future)
        assert ((await wrote).actual, (await read).data) == (5, b"hello")
        parked = device.submit(Transfer(0x82, 512))
        assert isinstance(parked, asyncio.Future)
        first.process.kill()
        assert (await parked).status == Status.GONE
        assert await device.gone
        await device.close()
        await asyncio.to_thread(first.process.wait)
        with pytest.raises(DeviceError):
            await open_source(second.address).open("1-1", ME)
        assert await asyncio.to_thread(second.end) == 0
        assert "Connection refused" in second.rest


def test_a_server_that_shares_nothing_now_is_told(runtime: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(8)
                peer.sendall(bytes.fromhex("0111 0005 00000000 00000000"))
                peer.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"usbip://127.0.0.1:{server.getsockname()[1]}"
        with served(address, runtime=runtime) as second:
            assert second.lines[0] == f"note: there is no device at {address} now"
        thread.join()
    assert os.listdir(runtime / "usbferry") == []


# --- --match ----------------------------------------------------------------------------------------------------------


def test_a_selector_that_is_wrong_is_named_as_it_was_written() -> None:
    assert refused("--match", "foo=1").startswith("--match foo=1: 'foo=1' is no term of a selector")
    meant = "'046d' is no term of a selector; did you mean 046d:*? There are: VID:PID, "
    assert refused("--match", "046d").startswith(f"--match 046d: {meant}")


@pytest.mark.parametrize("force", ["", "&force"])
def test_a_selector_is_shown_as_it_was_written(force: str) -> None:
    assert module._as_written(module._matching("serial=A?B") + force) == "--match serial=A?B"
    assert module._as_written("usb:1-2?force") == "usb:1-2?force"
    assert module._as_written("virtual:zero?later") == "virtual:zero?later"


CHURN = """
import resource
from usbferry.cli.serve import run

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

async def work():
    rounds = []
    for _ in range(5):
        before = faults()
        payloads = [bytes(bytearray(65536)) for _ in range(64)]
        del payloads
        rounds.append(faults() - before)
    print(min(rounds))

run(work())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other rules")
def test_memory_of_payloads_is_not_got_from_the_system_again_and_again():
    ran = subprocess.run([sys.executable, "-c", CHURN], capture_output=True, text=True, timeout=30)
    assert int(ran.stdout) < 64  # pages, of the 1024 that they have
