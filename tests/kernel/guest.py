"""A throw-away Linux guest: QEMU's software emulation, Debian's kernel, and this machine's own files.

The guest sees the host's / read-only under a tmpfs overlay, so programs and the checkout are there unchanged, at their
own paths; what it writes is lost, except under $SHARED. It reaches servers on the host's loopback as 10.0.2.2.

    guest = Guest()                            # boots it
    guest.run("modprobe vhci-hcd").ok()        # one bash, its exit code and output
    copying = guest.start("dd if=... of=...")  # goes on while the test does something on the host
    guest.run("usbip detach -p 0")             # steps may overlap
    copying.wait()
    guest.close()

A step is a file in the folder that host and guest share, and so is its output; only its number goes in, and its
exit code out, through a serial port of QEMU's, whose end here is a socket. That socket closes with the guest.
"""

import logging
import re
import select
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.kernel.rig import Kernel

CHECKOUT = Path(__file__).parents[2]

log = logging.getLogger(__name__)

INIT = """#!/bin/busybox sh
# The guest's first process: makes the host's files its root, then becomes the agent in there.
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module || echo "init: $module does not load" >/dev/kmsg; done
mount_9p() { mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,$3 $1 $2; }
mount_9p host /host ro,cache=loose
mount -t tmpfs -o size=75% rw /rw; mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work root /root
mount --move /proc /root/proc; mount --move /sys /root/sys; mount --move /dev /root/dev
mkdir -p /root/run /root/tmp /root/dev/pts /root/dev/shm /root/lib/modules
mount -t tmpfs run /root/run
mount -t devpts pts /root/dev/pts; mount -t tmpfs shm /root/dev/shm
mount_9p modules /root/lib/modules ro,cache=loose
mkdir /root/run/usbferry; mount_9p run /root/run/usbferry cache=none
exec switch_root /root /bin/bash /run/usbferry/agent
"""

AGENT = """# Inside the host's files: runs steps until the port closes; then nobody wants the guest any more.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=dumb
export SHARED=/run/usbferry/shared
ulimit -c 0
mount -t debugfs debug /sys/kernel/debug
ip link set lo up
interface=$(basename /sys/class/net/e*)
ip addr add 10.0.2.15/24 dev $interface; ip link set $interface up; ip route add default via 10.0.2.2
dmesg --clear; dmesg --console-level debug
for port in /sys/class/virtio-ports/*; do
    [ "$(cat $port/name)" = usbferry ] && exec 3<>/dev/${port##*/}
done
cd CHECKOUT
read -r uptime _ </proc/uptime; echo ready $uptime >&3
while read -r number limit <&3; do
    {
        step=/run/usbferry/steps/$number
        timeout -k 5 $limit bash $step.sh </dev/null >$step.out 2>&1 3>&-
        echo $number $? >&3
    } &
done
echo o >/proc/sysrq-trigger
"""

# Without "erms", for which the kernel copies by `rep movsb`: emulated that goes byte by byte, a quarter as fast. And
# without what costs at each system call or change of tasks: what guards the kernel from programs, and vector registers.
CPU = "max,la57=off,erms=off,smap=off,smep=off,pku=off,pks=off,xsave=off,fsgsbase=off,pcid=off"

COMMAND_LINE = " ".join(
    [
        "console=ttyS0 quiet",  # errors alone while it boots: the serial line is slow. The agent lets the rest through
        "panic=-1 oops=panic",  # with QEMU's -no-reboot, a crash ends the guest at once
        "hung_task_panic=1 sysctl.kernel.hung_task_timeout_secs=60",  # so does a task that waits for ever
        "mitigations=off random.trust_cpu=on no_timer_check tsc=reliable cryptomgr.notests",  # a quicker boot
    ]
)

# What a kernel prints when something in it went wrong, whatever the level.
_COMPLAINT = re.compile(
    r"BUG:|WARNING:|Oops|Kernel panic|general protection|blocked for more than|Call Trace|KASAN|UBSAN"
)


class GuestError(Exception):
    """The guest did not boot, died, or did not answer in time."""


class Result(NamedTuple):
    """How a step ended."""

    rc: int
    output: str  # what it wrote to stdout and stderr
    console: str  # what the kernel said meanwhile
    seconds: float  # seen from the host

    def ok(self) -> str:
        """The output of a step that had to succeed."""
        assert self.rc == 0, f"exit code {self.rc}:\n{self.output}\n--- kernel:\n{self.console}"
        return self.output


class Step:
    """A script under way in the guest."""

    def __init__(self, guest: "Guest", name: str, limit: float) -> None:
        self._guest, self._name, self._limit = guest, name, limit
        self._console_start = len(guest.console())
        self._started = time.monotonic()
        self._result: Result | None = None

    def is_over(self) -> bool:
        """Whether it has ended; does not wait."""
        return self._guest._answer(self._name, time.monotonic()) is not None

    def output(self) -> str:
        """What it has written until now."""
        path = self._guest._steps / f"{self._name}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self) -> Result:
        """Let it end. A step that outlasts its limit is an error, as is a guest that died."""
        if self._result is None:
            # The guest ends it at its limit, by force 5 s later; more than that is a guest that hangs.
            answer = self._guest._answer(self._name, self._started + self._limit + 20)
            seconds = time.monotonic() - self._started
            if answer is None or (answer in ("124", "137") and seconds >= self._limit):
                raise GuestError(f"not over after {self._limit:g} s:\n{self.output()}\n{self._guest.tail()}")
            self._result = Result(int(answer), self.output(), self._guest.console()[self._console_start :], seconds)
        return self._result


class Guest:
    """One virtual machine, from boot to kill."""

    def __init__(
        self,
        *,
        cpus: int = 1,  # two for races, which tests beside it pay for
        memory: str = "1G",
        forward: Sequence[int] = (),  # TCP ports of the guest that the host shall reach, see `ports`
        devices: Sequence[str] = (),  # QEMU's own USB devices, such as "usb-kbd", on an xHCI controller
        qemu: Sequence[str] = (),  # more arguments
        boot_limit: float = 120,  # generous: other work on the machine slows an emulated boot
    ) -> None:
        self.ports = {port: _free_port() for port in forward}  # guest port -> port on the host's loopback
        self.boot_seconds = 0.0
        self._work = Path(tempfile.mkdtemp(prefix="usbferry-guest-"))
        self._steps = self._work / "run" / "steps"
        self._console = self._work / "console"
        self.shared = self._work / "run" / "shared"  # the guest's $SHARED
        self._console_marked = 0
        self._answers: dict[str, str] = {}
        self._unread = b""
        self._count = 0
        try:
            if not self._boots(boot_limit, cpus, memory, devices, qemu):
                # Of some hundred boots one stands still before it has said anything; switched off and on it goes on.
                log.warning("%s\nonce more", self._where_it_stands(boot_limit))
                self._switch_off()
                if not self._boots(boot_limit, cpus, memory, devices, qemu):
                    raise GuestError(self._where_it_stands(boot_limit))
        except BaseException:
            self.close()
            raise

    def run(self, script: str, timeout: float = 60) -> Result:
        """Run one bash script to its end, as root, in the checkout."""
        return self.start(script, timeout).wait()

    def start(self, script: str, timeout: float = 60) -> Step:
        """Start one bash script; it runs beside those under way."""
        self._count += 1
        step = Step(self, str(self._count), timeout)
        (self._steps / f"{self._count}.sh").write_text(script)
        try:
            self._port.sendall(f"{self._count} {timeout:g}\n".encode())
        except OSError as error:
            raise GuestError(f"the guest is gone: {error}\n{self.tail()}") from error
        return step

    def console(self) -> str:
        """What the kernel has printed since it booted, in full; a dead guest's too."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def mark(self) -> None:
        """What the kernel said until now counts no longer for `complaints` and `errors`."""
        self.run("dmesg --clear").ok()
        self._console_marked = len(self.console())

    def complaints(self) -> list[str]:
        """Lines of the console that tell of a crash, a hang or a failed check in the kernel, since the mark."""
        return [line for line in self.console()[self._console_marked :].splitlines() if _COMPLAINT.search(line)]

    def errors(self) -> list[str]:
        """Messages that the running kernel logged as errors or worse, since the mark."""
        return self.run("dmesg --notime --level emerg,alert,crit,err").ok().splitlines()

    def tail(self, lines: int = 30) -> str:
        """The last that QEMU and the kernel said."""
        log = self._work / "qemu.log"
        said = (log.read_text(errors="replace") if log.exists() else "") + self.console()
        return "\n".join(["--- complaints:", *self.complaints(), "--- console:", *said.splitlines()[-lines:]])

    def qemu_said(self) -> str:
        """What QEMU has written until now: its devices' complaints."""
        return (self._work / "qemu.log").read_text(errors="replace")

    def monitor(self, command: str) -> str:
        """Tell QEMU something, such as "sendkey a" or "device_del ID"; what it answers."""
        return told(self._work / "monitor", command)

    def kill(self) -> None:
        """Pull the plug. Its connections end as those of a killed process do."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill it, and forget its files."""
        if hasattr(self, "_process"):
            self._switch_off()
        shutil.rmtree(self._work, ignore_errors=True)

    def _switch_off(self) -> None:
        self.kill()
        self._port.close()

    def _boots(self, limit: float, *machine: Any) -> bool:
        """Switch it on; whether it is there within so many seconds."""
        started = time.monotonic()
        self._boot(*machine)
        is_there = self._answer("ready", started + limit) is not None
        self.boot_seconds = time.monotonic() - started
        return is_there

    def _where_it_stands(self, limit: float) -> str:
        """What is known of a guest that does not boot: where each processor is, and what it has said."""
        try:
            registers = self.monitor("info registers -a")
        except OSError as error:
            registers = f"QEMU does not answer: {error}"
        places = re.findall(r"^(?:CPU#\d+|.*\b[RE]IP=\S+.*|QEMU.*)$", registers, re.M)
        return "\n".join([f"not booted after {limit:g} s", *places, self.tail()])

    def _boot(self, cpus: int, memory: str, devices: Sequence[str], qemu: Sequence[str]) -> None:
        kernel = Kernel.newest()
        if kernel is None:
            raise GuestError("no kernel: run tests/kernel/rig.py setup")
        self._steps.mkdir(parents=True, exist_ok=True)
        self.shared.mkdir(exist_ok=True)
        (self._work / "run" / "agent").write_text(AGENT.replace("CHECKOUT", shlex.quote(str(CHECKOUT))))
        (self._work / "initramfs").write_bytes(kernel.initramfs(INIT))
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{here}-10.0.2.15:{there}" for there, here in self.ports.items())
        self._port, port = socket.socketpair()
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", CPU,
            "-smp", str(cpus), "-m", memory,
            "-kernel", str(kernel.image), "-initrd", str(self._work / "initramfs"), "-append", COMMAND_LINE,
            "-serial", f"file:{self._console}",
            "-monitor", f"unix:{self._work / 'monitor'},server=on,wait=off",
            "-chardev", f"socket,id=port,fd={port.fileno()}",
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=usbferry",
            *_folder("host", Path("/"), "readonly=on"),
            *_folder("modules", kernel.modules, "readonly=on"),
            *_folder("run", self._work / "run", "readonly=off"),
            "-netdev", f"user,id=net{forwards}", "-device", "virtio-net-pci,netdev=net,romfile=",
            *(["-device", "qemu-xhci,p2=8,p3=8"] if devices else []),
            *(word for device in devices for word in ("-device", device)),
            *qemu,
        ]  # fmt: skip
        with port, (self._work / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[port.fileno()]
            )

    def _answer(self, key: str, deadline: float) -> str | None:
        """What the agent said of `key`; None when it has not by the deadline."""
        while key not in self._answers:
            if not select.select([self._port], [], [], max(0, deadline - time.monotonic()))[0]:
                return None
            try:
                news = self._port.recv(4096)
            except ConnectionResetError:
                news = b""
            if not news:
                raise GuestError(f"the guest is gone\n{self.tail()}")
            *lines, self._unread = (self._unread + news).split(b"\n")
            self._answers.update(line.decode().split(" ", 1) for line in lines)
        return self._answers[key]


def told(monitor: Path, command: str) -> str:
    """What a QEMU answers to a command at its monitor, which is a socket file."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(20)
        asked.connect(str(monitor))
        said = b""
        for word in (None, command):
            if word is not None:
                asked.sendall(f"{word}\n".encode())
                said = b""
            while not said.endswith(b"(qemu) "):
                said += asked.recv(4096) or b"(qemu) "
    return said.decode().replace("\r", "")


def _folder(tag: str, path: Path, access: str) -> list[str]:
    """QEMU's arguments that offer a folder of the host to the guest."""
    share = f"local,id={tag},path={path},security_model=none,multidevs=remap,{access}"
    return ["-fsdev", share, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
