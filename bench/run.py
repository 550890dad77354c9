"""`make bench`: how fast `usbferry serve` and usbferry's client are, measured against the least work there can be.

That is `floor`, a server, and `load`, a client, both in C. `load` loads `floor` and `usbferry serve` in turn, and so do
`load` and `client`, a program of the Python API, with `floor`: round after round. The medians are divided: a ratio says
what Python and all the layers cost, on any machine. 1.00 is the physical limit. Of a relay, `relay` says what it adds.
Rows of ferry, usbredir and gateways have our own USB/IP, or a single hop, where the others have the floor.

Server and load share one CPU unless told otherwise. On two, most of a round trip is the time that an idle CPU takes to
wake, and where the scheduler puts the two processes decides more than what they do. A row that says so has any CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TextIO

import usbferry
from usbferry.registry import DEVICES

HERE: Final = Path(__file__).resolve().parent
RESULTS: Final = HERE / "results" / "latest.json"
CFLAGS: Final = ("-O2", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra")
START_SECONDS: Final = 30.0  # for a server to listen
STOP_SECONDS: Final = 20.0
ZERO: Final = "1-1"  # bus ids, in the order of the addresses
DISK: Final = "1-2"
ADDRESSES: Final = {"zero": "virtual:zero", "disk": "virtual:disk?size=64M"}
IDLE_DEVICES: Final = 1000


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    work: str
    load: tuple[str, ...]  # the mode of `load` and its numbers
    figure: str  # of what `load` prints
    unit: str
    higher_is_better: bool
    target: float | None  # for the ratio
    uvloop_target: float | None = None  # where it is another one
    busid: str = ZERO
    # Where the floor cannot do this work, it is measured by its time for `ROUND_TRIP`.
    in_round_trips: bool = False
    client: tuple[str, ...] = ()  # of a row of the client: its mode and numbers, where `load` measures the floor alone
    loops: tuple[str, ...] = ("asyncio", "uvloop")

    def on(self, loops: Sequence[str]) -> list[str]:
        return [loop for loop in loops if loop in self.loops]

    def target_on(self, loop: str) -> float | None:
        return self.uvloop_target if loop == "uvloop" and self.uvloop_target is not None else self.target


ROUND_TRIP: Final = Case("64 B round trip", ("in", "1", "64", "1"), "p50_us", "us", False, 2.0, 1.7)
CASES: Final = (
    ROUND_TRIP,
    Case("512 B bulk in, 64 in flight", ("in", "1", "512", "64"), "per_second", "/s", True, 0.06),
    Case("512 B bulk out, 64 in flight", ("out", "1", "512", "64"), "per_second", "/s", True, 0.06),
    Case("GET_DESCRIPTOR, 64 in flight", ("control", "0", "18", "64"), "per_second", "/s", True, None),
    Case("64 KiB bulk in, 16 in flight", ("in", "1", "65536", "16"), "mb_per_second", "MB/s", True, 0.6),
    Case("64 KiB bulk out, 16 in flight", ("out", "1", "65536", "16"), "mb_per_second", "MB/s", True, 0.6),
    Case("4 KiB disk read", ("disk", "1", "2", "4096"), "p50_us", "us", False, 5.5, None, DISK, True),
    Case("64 KiB disk read", ("disk", "1", "2", "65536"), "p50_us", "us", False, 6.0, None, DISK, True),
    *(
        Case(f"client: {work}", words, figure, unit, True, target, client=words)
        for work, words, figure, unit, target in (
            ("64 KiB bulk in, 16 in flight", ("in", "1", "65536", "16"), "mb_per_second", "MB/s", 0.5),
            ("64 KiB bulk out, 16 in flight", ("out", "1", "65536", "16"), "mb_per_second", "MB/s", 0.5),
            ("512 B bulk in, 64 in flight", ("in", "1", "512", "64"), "per_second", "/s", 0.03),
            ("512 B bulk out, 64 in flight", ("out", "1", "512", "64"), "per_second", "/s", 0.03),
        )
    ),
    Case(
        "client: 64 B round trip, synchronous",
        ROUND_TRIP.load,
        "p50_us",
        "us",
        False,
        3.0,
        client=("sync-in", "1", "64", "1"),
        loops=("asyncio",),
    ),
)
IDLE_TARGET_MB: Final = 100.0  # for IDLE_DEVICES imported devices, resident


@dataclass
class Row:
    """What became of one case on one event loop."""

    work: str
    loop: str
    unit: str
    floor: float | None
    usbferry: float
    ratio: float | None
    target: float | None
    met: bool | None
    higher_is_better: bool
    rounds: dict[str, list[float]]  # every figure that the medians were taken from


class Failed(Exception):
    """No benchmark, and why, in one line."""


# -- the two programs in C --------------------------------------------------------------------------------------------


def build(directory: Path) -> None:
    """Compile `floor` and `load` into a directory. Raises Failed."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None or shutil.which(compiler.split()[0]) is None:
        raise Failed("a C compiler is needed (Debian: apt-get install gcc libc6-dev), or name one: CC=/path/to/cc")
    for name in ("floor", "load"):
        command = [*compiler.split(), *CFLAGS, "-o", str(directory / name), str(HERE / f"{name}.c")]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise Failed(f"{' '.join(command)} failed:\n{made.stderr}")


def measure(command: Sequence[str], seconds: float, loop: str = "") -> dict[str, float]:
    """What one run of `load` or `client` says. Raises Failed when it was answered wrongly, or not at all."""
    ran = subprocess.run(
        [*command, str(seconds)], capture_output=True, text=True, timeout=seconds + 60, env=_environment(loop)
    )
    if ran.returncode:
        said = ran.stderr.strip()[-1000:] or f"exit {ran.returncode}"
        raise Failed(f"{' '.join([Path(command[0]).name, *command[1:]])}: {said}")
    figures: dict[str, float] = json.loads(ran.stdout)
    return figures


def _environment(loop: str) -> dict[str, str] | None:
    return {**os.environ, "USBFERRY_LOOP": loop} if loop else None


# -- servers ----------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server that listens."""

    port: int
    pid: int
    ferry: int = 0  # its port for ferry, where it has one


@contextmanager
def running(command: Sequence[str], loop: str = "") -> Iterator[Server]:
    """A server for the length of a `with`: a process that says on stderr where it listens. Raises Failed."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stderr=said, env=_environment(loop))
        try:
            port = _port(process, said, command[0])
            said.seek(0)
            ferry = re.search(r"^listening on ferry://127\.0\.0\.1:(\d+)$", said.read(), re.MULTILINE)
            yield Server(port, process.pid, int(ferry[1]) if ferry else 0)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen[bytes], said: TextIO, name: str) -> int:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        said.seek(0)
        text = said.read()
        listening = re.search(r"^listening on (?:usbredir://)?127\.0\.0\.1:(\d+)$", text, re.MULTILINE)
        if listening:
            return int(listening[1])
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise Failed(f"{name} does not listen: {text.strip()[-1000:] or 'it says nothing'}")


def serve(addresses: Sequence[str], protocol: str = "usbip") -> list[str]:
    where = ("--listen", "127.0.0.1:0") if protocol == "usbip" else ("--on", f"{protocol}://127.0.0.1:0")
    return [sys.executable, "-m", "usbferry", "serve", *where, *addresses]


# -- rates and times --------------------------------------------------------------------------------------------------


def compare(programs: Path, cases: Sequence[Case], loops: Sequence[str], rounds: int, seconds: float) -> list[Row]:
    """Measure the floor, and usbferry on each loop, in turn, `rounds` times; a row for each case and loop."""
    known = [ADDRESSES[name] for name in ADDRESSES if name in DEVICES]
    figures: dict[tuple[Case, str], list[float]] = {}
    with ExitStack() as stack:
        servers = {"floor": stack.enter_context(running([str(programs / "floor")]))}
        for loop in loops if any(not case.client for case in cases) else ():
            servers[loop] = stack.enter_context(running(serve(known), loop))
        for _ in range(rounds):
            for case in cases:
                for name in ("floor", *case.on(loops)):
                    figure = _figure(programs, servers, case, name, seconds)
                    figures.setdefault((case, name), []).append(figure)

    rows = []
    for case in cases:
        for loop in case.on(loops):
            rounds_of = {"floor": figures[case, "floor"], "usbferry": figures[case, loop]}
            floor, ours = map(statistics.median, rounds_of.values())
            ratio, target, more = ours / floor, case.target_on(loop), case.higher_is_better
            met = None if target is None else ratio >= target if more else ratio <= target
            rows.append(Row(case.work, loop, case.unit, floor, ours, ratio, target, met, more, rounds_of))
    return rows


def _figure(programs: Path, servers: Mapping[str, Server], case: Case, name: str, seconds: float) -> float:
    """One measurement of a case: of the floor, or of usbferry on the loop `name`."""
    load, floor = str(programs / "load"), str(servers["floor"].port)
    if name == "floor":
        like = ROUND_TRIP if case.in_round_trips else case
        return measure([load, floor, ZERO, *like.load], seconds)[like.figure]
    if case.client:
        client = [sys.executable, str(HERE / "client.py"), floor, ZERO, *case.client]
        return measure(client, seconds, name)[case.figure]
    return measure([load, str(servers[name].port), case.busid, *case.load], seconds)[case.figure]


# -- ferry ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FerryCase:
    """Work that is done over ferry and over USB/IP, whose figure stands where the floor's does, and at what ratio."""

    like: Case
    target: float

    @property
    def work(self) -> str:
        return f"ferry, by USB/IP: {self.like.work}"


SMALL, BULK = 1.0, 0.95  # of USB/IP's speed
FERRY_CASES: Final = tuple(
    FerryCase(case, BULK if "64 KiB" in case.work else SMALL)
    for case in CASES
    if not case.client and case.load[0] != "disk"
)


def ferry(programs: Path, cases: Sequence[FerryCase], loops: Sequence[str], rounds: int, seconds: float) -> list[Row]:
    """Measure one server's ferry, everything as shipped, and its USB/IP in turn; a row for each case and loop."""
    rows = []
    for loop in loops if cases else ():
        with running([*serve([ADDRESSES["zero"]]), "--on", "ferry://127.0.0.1:0"], loop) as server:
            for case in cases:
                like, load = case.like, str(programs / "load")
                ways = {"usbip": [load, str(server.port), ZERO], "ferry": [load, str(server.ferry), f"ferry:{ZERO}"]}
                found: dict[str, list[float]] = {way: [] for way in ways}
                for _ in range(rounds):
                    for way, command in ways.items():
                        found[way].append(measure([*command, *like.load], seconds)[like.figure])
                usbip, ours = map(statistics.median, found.values())
                ratio, more = ours / usbip, like.higher_is_better
                target = case.target if more else 1 / case.target
                met = ratio >= target if more else ratio <= target
                rows.append(Row(case.work, loop, like.unit, usbip, ours, ratio, target, met, more, found))
    return rows


# -- usbredir and gateways ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HopCase:
    """A way to a device, compared with our own single hop of USB/IP, or of the protocol at a gateway's near side."""

    case: Case
    way: str  # "usbredir", or a gateway's: its far side's protocol, "to", its near side's
    target: float
    # On every CPU: of what goes one at a time, it is not the work that counts but how long each takes to wake, and
    # machines that wait for one another have their caches and predictions to themselves.
    is_apart: bool = False

    @property
    def work(self) -> str:
        return f"{self.way}: {self.case.work}{', on any CPU' if self.is_apart else ''}"

    @property
    def near(self) -> str:
        return self.way.rpartition(" ")[2]


_DISK: Final = Case("64 KiB disk read", ("disk", "1", "2", "65536"), "mb_per_second", "MB/s", True, None, busid=DISK)
HOP_CASES: Final = (
    *(HopCase(case, "usbredir", 0.9 if case.higher_is_better else 1.1) for case in CASES[:6]),
    *(
        HopCase(case, way, 0.4)
        for way in ("usbip to usbredir", "usbredir to usbip")
        for case in (CASES[1], CASES[2], CASES[4], CASES[5])
    ),
    HopCase(_DISK, "usbredir to usbip", 0.4, is_apart=True),
)


def hops(programs: Path, cases: Sequence[HopCase], loops: Sequence[str], rounds: int, seconds: float) -> list[Row]:
    """Measure each case and the hop that it is compared with in turn. Behind a gateway is the floor, or our disk."""
    return [_hop(programs, case, loop, rounds, seconds) for loop in loops for case in cases]


def _hop(programs: Path, one: HopCase, loop: str, rounds: int, seconds: float) -> Row:
    case, address = one.case, ADDRESSES["disk" if one.case.busid == DISK else "zero"]
    far, _, near = one.way.rpartition(" to ")
    with ExitStack() as stack:
        if one.is_apart:
            stack.enter_context(on_any_cpu())
        hop = stack.enter_context(running(serve([address], near if far else "usbip"), loop))
        if far:
            floor = [str(programs / "floor"), *(["usbredir"] if far == "usbredir" else [])]
            behind = stack.enter_context(running(serve([address], far) if case.busid == DISK else floor, loop))
            address = f"{far}://127.0.0.1:{behind.port}"
        ways = {"floor": (hop, near if far else "usbip")}
        ways["usbferry"] = (stack.enter_context(running(serve([address], near), loop)), near)
        figures: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, (server, protocol) in ways.items():
                busid = "usbredir" if protocol == "usbredir" else ZERO
                command = [str(programs / "load"), str(server.port), busid, *case.load]
                figures[name].append(measure(command, seconds)[case.figure])
    base, ours = map(statistics.median, figures.values())
    ratio, more = ours / base, case.higher_is_better
    met = ratio >= one.target if more else ratio <= one.target
    return Row(one.work, loop, case.unit, base, ours, ratio, one.target, met, more, figures)


# -- the relay --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RelayCase:
    """What `relay.py` measures, and which of its figures is the row."""

    work: str
    words: tuple[str, ...]  # bytes of a transfer, and how many are in flight
    figure: str


RELAY_CASES: Final = (
    RelayCase("relay: added to a 64 B round trip", ("64", "1"), "added_us"),
    RelayCase("relay: CPU for each 512 B, 64 in flight", ("512", "64"), "cpu_us"),
    RelayCase("relay: CPU for each 64 KiB, 16 in flight", ("65536", "16"), "cpu_us"),
)


def relay(programs: Path, cases: Sequence[RelayCase], loops: Sequence[str], rounds: int, seconds: float) -> list[Row]:
    """What the way of a server's transfers through `usbferry attach --relay` takes, in microseconds."""
    rows = []
    with running([str(programs / "floor")]) as floor:
        for case in cases:
            for loop in loops:
                command = [sys.executable, str(HERE / "relay.py"), str(floor.port), ZERO, *case.words]
                figures = [measure(command, seconds, loop)[case.figure] for _ in range(rounds)]
                median = statistics.median(figures)
                rows.append(Row(case.work, loop, "us", None, median, None, None, None, False, {"usbferry": figures}))
    return rows


# -- memory -----------------------------------------------------------------------------------------------------------


def idle(loops: Sequence[str], devices: int) -> list[Row]:
    """What a process takes that serves `devices` devices, all imported and idle."""
    _allow_files(devices + 100)
    rows = []
    for loop in loops:
        with running(serve([ADDRESSES["zero"]] * devices), loop) as server, ExitStack() as stack:
            before = resident(server.pid)
            for number in range(devices):
                stack.enter_context(_imported(server.port, f"{number // 127 + 1}-{number % 127 + 1}"))
            used = resident(server.pid)
        work, megabytes = f"{devices} idle imported devices", used["Rss"] / 1e6
        met = megabytes <= IDLE_TARGET_MB if devices == IDLE_DEVICES else None
        target = None if met is None else IDLE_TARGET_MB
        kinds = {"before": [before["Rss"] / 1e6], "rss": [megabytes], "pss": [used["Pss"] / 1e6]}
        rows.append(Row(work, loop, "MB", None, megabytes, None, target, met, False, kinds))
    return rows


def resident(pid: int) -> dict[str, int]:
    """Bytes of a process by kind: "Rss" is all its resident memory, "Pss" counts shared pages in parts."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {kind: int(kib) * 1024 for kind, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}


def _imported(port: int, busid: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS)
    connection.sendall(bytes.fromhex("0111 8003 00000000") + busid.encode().ljust(32, b"\0"))
    head = connection.recv(8, socket.MSG_WAITALL)
    if head != bytes.fromhex("0111 0003 00000000") or len(connection.recv(312, socket.MSG_WAITALL)) != 312:
        raise Failed(f"import of {busid} was answered with {head.hex()}")
    return connection


def _allow_files(number: int) -> None:
    """Raise the limit of open files, of this process and the servers it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        raise Failed(f"{number} open files are needed, the limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


# -- the command line -------------------------------------------------------------------------------------------------


ALLOWED: Final = frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ())  # CPUs, from outside


def pin(cpus: str) -> str:
    """Keep this process, and so every one it starts, on one CPU: the last it may use. Which one, in words."""
    if cpus == "any" or not hasattr(os, "sched_setaffinity"):
        return "any CPU"
    last = max(ALLOWED)
    os.sched_setaffinity(0, {last})
    return f"CPU {last}"


@contextmanager
def on_any_cpu() -> Iterator[None]:
    """Leave every CPU that there is for us to what is started in the `with`."""
    if not ALLOWED:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, ALLOWED)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def surroundings() -> dict[str, Any]:
    """What the figures depend on."""
    cpu = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return {
        "usbferry": usbferry.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu[1].strip() if cpu else platform.processor(),
        "cpus": os.cpu_count(),
        "congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control").strip(),
        "busy": round(os.getloadavg()[0], 2),  # processes that ran during the last minute, before we began
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    lines = [("work", "loop", "floor", "usbferry", "ratio", "target", "")]
    for row in rows:
        sign = ">=" if row.higher_is_better else "<="
        unit = f" {row.unit}" if row.ratio is None else ""
        lines.append(
            (
                row.work,
                row.loop,
                f"{_number(row.floor)} {row.unit}" if row.floor is not None else "",
                f"{_number(row.usbferry)} {row.unit}",
                f"{row.ratio:.3f}" if row.ratio is not None else "",
                f"{sign} {row.target:g}{unit}" if row.target is not None else "",
                {True: "met", False: "MISSED", None: ""}[row.met],
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.ljust, str.ljust)
    return "\n".join(
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, line, widths, strict=True)).rstrip()
        for line in lines
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=0.4, help="how long each time (default 0.4)")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.1 s")
    parser.add_argument(
        "--loop",
        action="append",
        choices=("asyncio", "uvloop"),
        help="the event loop; may be given twice (default: each that is installed)",
    )
    parser.add_argument(
        "--cpus", choices=("one", "any"), default="one", help="keep server and load on one CPU (default), or on any"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="the rows with this text in their name")
    parser.add_argument("--idle", type=int, default=IDLE_DEVICES, metavar="N", help="idle devices; 0 leaves them out")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help=f"default {_short(RESULTS)}")
    parser.add_argument("--check", action="store_true", help="exit with status 1 when a target is missed")
    chosen = parser.parse_args(words)
    if chosen.quick:
        chosen.rounds, chosen.seconds = 3, 0.1
    if chosen.loop is None:
        chosen.loop = ["asyncio", "uvloop"] if find_spec("uvloop") else ["asyncio"]
    return chosen


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def run(chosen: argparse.Namespace) -> list[Row]:
    """Measure what was asked for, print it, and write it down. Raises Failed."""
    where, about = pin(chosen.cpus), surroundings()
    print(f"usbferry {about['usbferry']}, {about['python']}, {about['system']}, {about['cpu']}")
    print(f"server and load on {where}; medians of {chosen.rounds} rounds of {chosen.seconds:g} s each")
    if about["busy"] >= 1:
        print(f"note: {about['busy']} other processes have been busy; rates say little until they are done")
    print(flush=True)
    cases = [case for case in CASES if chosen.only in case.work and (case.busid != DISK or "disk" in DEVICES)]
    relay_cases = [case for case in RELAY_CASES if chosen.only in case.work and hasattr(os, "fork")]
    ferry_cases = [case for case in FERRY_CASES if chosen.only in case.work]
    rows = []
    hop_cases = [case for case in HOP_CASES if chosen.only in case.work]
    if cases or relay_cases or ferry_cases or hop_cases:
        with tempfile.TemporaryDirectory(prefix="usbferry-bench-") as directory:
            build(Path(directory))
            rows = compare(Path(directory), cases, chosen.loop, chosen.rounds, chosen.seconds)
            rows += ferry(Path(directory), ferry_cases, chosen.loop, chosen.rounds, chosen.seconds)
            rows += hops(Path(directory), hop_cases, chosen.loop, chosen.rounds, chosen.seconds)
            rows += relay(Path(directory), relay_cases, chosen.loop, chosen.rounds, chosen.seconds)
    if chosen.idle and chosen.only in "idle imported devices" and Path("/proc/self/smaps_rollup").exists():
        rows += idle(chosen.loop, chosen.idle)
    print(table(rows))

    kept = {key: value for key, value in vars(chosen).items() if key != "json"}
    report = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **about, "on": where, "options": kept}
    report["rows"] = [vars(row) for row in rows]
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {_short(chosen.json)}")
    return rows


def main(words: Sequence[str] | None = None) -> int:
    chosen = options(words)
    try:
        rows = run(chosen)
    except Failed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    missed = [row.work for row in rows if row.met is False]
    if chosen.check and missed:
        print(f"bench: missed: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
