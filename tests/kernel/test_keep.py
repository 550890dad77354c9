"""`usbferry keep` in a guest, and everything that happens to its devices: each is usable again, with no hand on it.

    guest:  keep, probe  ---- QEMU's network ----  host: server NEAR, killed, stopped, its device re-enumerating
            keep, probe  ---- veth, cut by tc ---  guest: server FAR, in a network namespace of its own

QEMU ends the guest's connections itself, and answers for it when the guest is cut off: what the server at the other end
of a cut sees can only be seen where both ends are the kernel's.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.kernel.guest import CHECKOUT, Guest, Step
from tests.kernel.steps import FREE, HOST, STATUS

COUNTED = CHECKOUT / "tests" / "kernel" / "counted.py"
USBFERRY = f"{sys.executable} -m usbferry"
PROBE = CHECKOUT / "tests" / "kernel" / "probe.py"
ROUNDS = 200 if os.environ.get("USBFERRY_SOAK") else 10
USABLE_SECONDS = 20  # the guest's, after which a device must be usable again
NOTICED_SECONDS = 15  # the guest's, after which a cut must be known at both ends
PATIENCE = 90  # seconds of the host, on a busy machine, until a test gives up
FAR_HOST, FAR_PORT = "10.9.0.2", 3240
NEAR, FAR = "NEAR", "FAR"  # serial numbers of the two devices

NETWORK = f"""
    set -e
    modprobe -a vhci-hcd veth sch_netem
    ip netns add far
    ip link add near type veth peer name far netns far
    ip address add 10.9.0.1/24 dev near
    ip link set near up
    ip -n far address add {FAR_HOST}/24 dev far
    ip -n far link set far up
"""
CUT = """
    tc qdisc add dev near root netem loss 100%
    tc -n far qdisc add dev far root netem loss 100%
    cut -d' ' -f1 /proc/uptime
"""
MEND = """
    tc qdisc del dev near root
    tc -n far qdisc del dev far root
    cut -d' ' -f1 /proc/uptime
"""
SEE_LOST = """
    lost() { grep -c '^far: .* is lost: ' $SHARED/keep.log; }
    before=$(lost)
    until [ $(lost) -gt $before ]; do sleep 0.1; done
    cut -d' ' -f1 /proc/uptime
"""


class Use(NamedTuple):
    """The last use of a device that went well, as probe.py says it."""

    ids: str
    number: int  # devnum: another one after each enumeration
    when: float  # the guest's uptime


class Near:
    """The server on the host."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.port = 0
        self.start()

    def start(self) -> None:
        """Once more on the same port; its log begins anew."""
        with self._log.open("w") as output:
            words = [sys.executable, str(COUNTED), "zero", "127.0.0.1", str(self.port), NEAR]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=CHECKOUT)
        self.port = int(until(lambda: re.search(r"listening (\d+)", self.log()), "the server listens")[1])

    def log(self) -> str:
        return self._log.read_text()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def until(found: Callable[[], Any], what: str) -> Any:
    """Wait for it; what it gave."""
    deadline = time.monotonic() + PATIENCE
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.05)
    return result


class Scene:
    """The guest with a keeper and a probe, the two servers, and what each of them says."""

    def __init__(self, guest: Guest, near: Near) -> None:
        self.guest = guest
        self.near = near
        self.keeper: Step
        self.seconds: dict[str, list[float]] = {}  # kind of mishap -> the guest's until the device was usable again

    # -- in the guest -------------------------------------------------------------------------------------------------

    def start(self, name: str, command: str) -> Step:
        """Start a program in the guest; its output is in a file, and its process id."""
        return self.guest.start(f"echo $$ >$SHARED/{name}.pid; exec {command} >$SHARED/{name}.log 2>&1", 7200)

    def keep(self) -> None:
        self.keeper = self.start(
            "keep", f"env USBFERRY_LOOP=asyncio {sys.executable} {COUNTED} keep --config $SHARED/keep.toml"
        )

    def log(self, name: str) -> str:
        path = self.guest.shared / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def kill(self, name: str, number: int) -> float:
        """Send a signal to a program of the guest; the guest's uptime then."""
        return float(self.guest.run(f"kill -{number} $(cat $SHARED/{name}.pid); cut -d' ' -f1 /proc/uptime").ok())

    def uptime(self) -> float:
        return float(self.guest.run("cut -d' ' -f1 /proc/uptime").ok())

    def use(self, serial: str) -> Use:
        """The last use of a device that went well."""
        try:
            ids, number, when = (self.guest.shared / serial).read_text().split()
        except (OSError, ValueError):
            return Use("", 0, 0.0)
        return Use(ids, int(number), float(when))

    # -- what happens -------------------------------------------------------------------------------------------------

    def probe(self, serial: str) -> Step:
        return self.start(f"probe-{serial}", f"/usr/bin/python3 -I -S {PROBE} $SHARED {serial}")

    def usable(self, kind: str, serial: str, since: float, other_than: int = 0) -> Use:
        """Wait until a device is used again, after `since`; as another one than the device number given."""

        def is_used() -> Use | None:
            use = self.use(serial)
            return use if use.when > since and use.number != other_than else None

        use = until(is_used, f"{serial} is usable again after: {kind}\n{self.log('keep')[-3000:]}")
        self.seconds.setdefault(kind, []).append(round(use.when - since, 1))
        assert use.when - since <= USABLE_SECONDS, f"{kind}: after {use.when - since:.1f} s\n{self.log('keep')[-3000:]}"
        return use

    def restarted(self) -> None:
        """The server is killed and comes back."""
        before = self.use(NEAR)
        self.near.close()
        since = self.uptime()
        self.near.start()
        self.usable("server restarted", NEAR, since, before.number)

    def re_enumerated(self) -> None:
        """The device leaves and comes back as another."""
        before, since = self.use(NEAR), self.uptime()
        self.near.send(signal.SIGUSR1)
        assert self.usable("re-enumerated", NEAR, since, before.number).ids != before.ids

    def stopped(self) -> None:
        """The server hangs for a while. Transfers fail meanwhile; the session outlives that."""
        before = self.use(NEAR)
        self.near.send(signal.SIGSTOP)
        time.sleep(3)
        since = self.uptime()
        self.near.send(signal.SIGCONT)
        assert self.usable("server stopped", NEAR, since).number == before.number

    def keeper_killed(self) -> None:
        """The kernel has the connection: the device goes on, and the next keeper sees it through."""
        before = self.use(NEAR)
        self.kill("keep", signal.SIGKILL)
        self.keep()
        until(lambda: self.log("keep").count(" is attached to port ") == 2, "the keeper took both over")
        assert self.use(NEAR).number == before.number
        since = self.uptime()
        self.near.send(signal.SIGUSR1)
        self.usable("keeper killed, then re-enumerated", NEAR, since, before.number)

    def cut(self, *meanwhile: Callable[[], None]) -> None:
        """No packet passes until both ends have noticed."""
        before, freed = self.use(FAR), self.log("far").count("free ")
        since = float(self.guest.run(CUT).ok())
        if not meanwhile:
            seeing = self.guest.start(SEE_LOST)
        for happen in meanwhile:
            happen()
        until(lambda: self.log("far").count("free ") > freed, "the server noticed the cut")
        self.noticed("server", float(re.findall(r"free (\S+)", self.log("far"))[-1]) - since)
        if not meanwhile:
            self.noticed("keeper", float(seeing.wait().ok()) - since)
        mended = float(self.guest.run(MEND).ok())
        self.usable("network cut", FAR, mended, before.number)

    def noticed(self, who: str, seconds: float) -> None:
        self.seconds.setdefault(f"cut noticed by the {who}", []).append(round(seconds, 1))
        assert seconds < NOTICED_SECONDS

    def hiccup(self) -> None:
        """No packet passes for a few seconds: the session outlives that."""
        before = self.use(FAR)
        self.guest.run(CUT).ok()
        time.sleep(3)
        mended = float(self.guest.run(MEND).ok())
        assert self.usable("network down for 3 s", FAR, mended).number == before.number

    def by_hand(self) -> None:
        """Detached by hand, it is left alone until somebody attaches it again."""
        before, address = self.use(NEAR), f"usbip://{HOST}:{self.near.port}/1-1"
        [port] = [one["port"] for one in self.status() if one["address"] == address]
        said = self.guest.run(f"{USBFERRY} detach {port}").ok()
        assert f"to resume: usbferry attach {address}" in said
        until(lambda: "near: 1-1 " in self.log("keep") and "detached by hand" in self.log("keep"), "the keeper says so")
        assert [one["state"] for one in self.status() if one["address"] == address] == ["stopped"]
        since = float(self.guest.run("sleep 5; cut -d' ' -f1 /proc/uptime").ok())
        assert self.use(NEAR).when < since - 4
        self.guest.run(f"{USBFERRY} attach {address}").ok()
        self.usable("attached by hand", NEAR, self.uptime(), before.number)
        until(lambda: [one["state"] for one in self.status()] == ["attached"] * 2, "the keeper has both")

    def status(self) -> list[dict[str, Any]]:
        """Every device that is kept, as the command says it."""
        said = json.loads(self.guest.run(f"{USBFERRY} keep --status --json").ok())
        return [device for one in said["keepers"] for place in one["places"] for device in place["devices"]]

    def killed_with_its_guest(self) -> None:
        """The server notices at once: QEMU's connections end with it."""
        self.keep()
        until(lambda: self.near.log().splitlines()[-1].startswith("held"), "the device is kept again")
        self.guest.kill()
        until(lambda: self.near.log().splitlines()[-1].startswith("free"), "the server has its device back")

    def rebooted(self, boot: Callable[..., Guest]) -> None:
        """A new boot of the guest, as far as the server can tell: the device is there once the keeper runs."""
        self.guest = boot()
        self.guest.run("modprobe vhci-hcd").ok()
        self.write_rules()
        self.probe(NEAR)
        self.keep()
        until(lambda: "keeping" in self.log("keep"), "the keeper runs")  # its start takes long under emulation
        self.usable("guest rebooted", NEAR, self.uptime() - 1)

    def write_rules(self) -> None:
        (self.guest.shared / "keep.toml").write_text(f"""
            [[rule]]
            name = "near"
            device = ["usbip://{HOST}:{self.near.port}/1209:0010", "usbip://{HOST}:{self.near.port}/1209:0011"]

            [[rule]]
            name = "far"
            device = "usbip://{FAR_HOST}:{FAR_PORT}/1209:*,serial={FAR}"
        """)

    # -- what is held -------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, dict[str, int]]:
        """What each process holds at its quietest of some moments: a look at a server takes a connection."""
        for _ in range(8):
            self.near.send(signal.SIGUSR2)
            self.kill("keep", signal.SIGUSR2)
            self.kill("far", signal.SIGUSR2)
        logs = {"near": self.near.log(), "keep": self.log("keep"), "far": self.log("far")}
        return {name: least(log) for name, log in logs.items()}

    def held(self) -> list[str]:
        """Ports in use, and devices and threads of the kernel's that should not be there any more."""
        script = f"""
            cat {STATUS} | grep -E '^(hs|ss)' | grep -v ' {FREE} '
            grep -lE '{NEAR}|{FAR}' /sys/bus/usb/devices/*/serial
            cat /proc/[0-9]*/comm 2>/dev/null | grep ^vhci_
            ls /var/run/vhci_hcd /run/usbferry-keep
        """
        return (
            self.guest.run(script).output.replace("/var/run/vhci_hcd:", "").replace("/run/usbferry-keep:", "").split()
        )

    def last_words(self) -> list[str]:
        """What each server said last of its device."""
        logs = (self.near.log(), self.log("far"))
        return [re.findall(r"^(held|free) ", log, re.M)[-1] for log in logs]


def least(log: str) -> dict[str, int]:
    said = [json.loads(line) for line in log.splitlines() if line.startswith("{")][-8:]
    return {key: min(one[key] for one in said) for key in said[0]}


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Near]:
    with closing(Near(tmp_path / "near.log")) as server:
        yield server


@pytest.fixture
def scene(boot: Callable[..., Guest], near: Near) -> Scene:
    """A guest with everything but a keeper and the probes."""
    guest = boot()
    made = Scene(guest, near)
    guest.run(NETWORK).ok()
    made.start("far", f"ip netns exec far {sys.executable} {COUNTED} zero {FAR_HOST} {FAR_PORT} {FAR}")
    made.write_rules()
    until(lambda: "listening" in made.log("far"), "the far server listens")
    return made


@pytest.mark.timeout(3 * 60 * 60 if ROUNDS > 10 else 400)
def test_whatever_happens_the_devices_are_usable_again(scene: Scene, boot: Callable[..., Guest]) -> None:
    guest = scene.guest
    guest.mark()
    begun = scene.uptime()
    scene.keep()
    for serial in (NEAR, FAR):
        scene.probe(serial)
    for serial in (NEAR, FAR):
        until(lambda serial=serial: scene.use(serial).number, f"{serial} is usable\n{scene.log('keep')}")
    before = scene.counts()
    cycle = (
        lambda: scene.cut(scene.re_enumerated, scene.restarted),  # three in one: a cut takes long to be noticed
        scene.stopped,
        scene.keeper_killed,
        scene.hiccup,
        scene.re_enumerated,
        scene.restarted,
        scene.cut,
        scene.restarted,
    )
    for _ in range(ROUNDS // 10):
        for happen in cycle:
            happen()
    assert scene.counts() == before
    sys.stdout.write(
        f"seconds: {json.dumps(scene.seconds)}, of {scene.uptime() - begun:.0f}; held: {before}\n"
    )  # with -s
    assert sum(map(len, scene.seconds.values())) >= ROUNDS

    scene.by_hand()

    scene.kill("keep", signal.SIGTERM)
    assert scene.keeper.wait().rc == 0
    assert scene.held() == []
    assert scene.last_words() == ["free", "free"]
    assert guest.complaints() == []

    scene.killed_with_its_guest()
    scene.rebooted(boot)
