"""A virtual machine of libvirt's, as `virsh` is told to make it: a kernel that says which USB devices it sees, no more.

libvirt's driver runs inside of virsh, with a folder of its own for all its files (qemu:///embed): no daemon is started,
and machines that a person has in libvirt here are not touched.
"""

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from tests.kernel.guest import CPU
from tests.kernel.rig import Kernel

NAME = "usbferry"
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
dmesg -n 8
while :; do sleep 1000; done
"""
COMMAND_LINE = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on no_timer_check tsc=reliable"

# Debian's libvirt would run QEMU as a user that only libvirt-daemon-system makes, and have virtlogd read what it says.
# Root's does not even begin without that user: USERS are there for virsh alone, by libnss-wrapper.
USERS = {"passwd": "libvirt-qemu:x:64055:64055::/nonexistent:/bin/false\n", "group": "libvirt-qemu:x:64055:\n"}
SETTINGS = f"""
user = "+{os.getuid()}"
group = "+{os.getgid()}"
security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
stdio_handler = "file"
"""

# Whatever becomes of the test, the end of its process is the end of virsh's input. Its machine would go on without it.
TO_ITS_END = """
virsh -q -c "qemu:///embed?root=$1"
[ ! -e "$1/run/qemu/$2.pid" ] || kill -KILL $(cat "$1/run/qemu/$2.pid")
rm -rf "$1"
"""
PROMPT = b"virsh # "

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>256</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{words}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'>{without}</cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='qemu-xhci' ports='8'/>
    <serial type='file'><source path='{console}'/></serial>
    <memballoon model='none'/>
    {devices}
  </devices>
</domain>
"""


class Virsh:
    """One virsh, which is told one command after the other, and the machine that it has."""

    def __init__(self) -> None:
        # Not pytest's: sockets of libvirt's and ours are in it, whose paths may have 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="usbferry-virt-"))
        (self.folder / "etc").mkdir()
        (self.folder / "etc" / "qemu.conf").write_text(SETTINGS)
        for name, line in USERS.items():
            (self.folder / "etc" / name).write_text(Path("/etc", name).read_text() + line)
        self._console = self.folder / "console"
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", TO_ITS_END, "sh", str(self.folder), NAME],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for pytest alone
            env={
                **os.environ,
                "LC_ALL": "C",
                "LIBVIRT_LOG_OUTPUTS": f"3:file:{self.folder / 'virsh.log'}",
                "LD_PRELOAD": "libnss_wrapper.so",
                **{f"NSS_WRAPPER_{name.upper()}": str(self.folder / "etc" / name) for name in USERS},
            },
        )
        try:
            self._answer(60)
        except BaseException:
            self.close()
            raise

    def __call__(self, command: str, limit: float = 90) -> str:
        """What it says to a command, which has to succeed."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        said = self._answer(limit)
        assert "error:" not in said, f"virsh {command}: {said}\n{self.tail()}"
        return said

    def start(self, devices: str) -> None:
        """Define the machine with some more devices, as XML, and switch it on."""
        kernel = Kernel.newest()
        assert kernel is not None
        (self.folder / "initrd").write_bytes(kernel.initramfs(INIT, ["xhci_pci"]))
        without = "".join(
            f"<feature policy='disable' name='{word.removesuffix('=off')}'/>" for word in CPU.split(",")[1:]
        )
        self("define " + self.file("domain", DOMAIN.format(
            name=NAME, kernel=escape(str(kernel.image)), initrd=self.folder / "initrd", console=self._console,
            words=COMMAND_LINE, without=without, devices=devices,
        )))  # fmt: skip
        self(f"start {NAME}")

    def file(self, name: str, text: str) -> str:
        """Write a file of XML; its path."""
        path = self.folder / f"{name}.xml"
        path.write_text(text)
        return str(path)

    def console(self) -> str:
        """What the machine's kernel has said."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def wait_for(self, condition: Callable[[], object], what: str, limit: float = 90) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {limit:g} s\n{self.tail()}"
            time.sleep(0.05)

    def tail(self) -> str:
        """The last that the kernel, QEMU and libvirt said."""
        logs = [self._console, self.folder / "log" / "qemu" / f"{NAME}.log", self.folder / "virsh.log"]
        texts = [path.read_text(errors="replace") if path.exists() else "" for path in logs]
        return "\n".join(f"--- {path.name}:\n{text[-3000:]}" for path, text in zip(logs, texts, strict=True))

    def close(self) -> None:
        """Switch the machine off, and forget its files."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _answer(self, limit: float) -> str:
        """What it says until it asks for the next command."""
        assert self._process.stdout is not None
        said, deadline = b"", time.monotonic() + limit
        while not said.endswith(PROMPT):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, deadline - time.monotonic()))
            news = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            assert news, f"virsh does not go on: {said.decode(errors='replace')}\n{self.tail()}"
            said += news
        return said.removesuffix(PROMPT).decode(errors="replace")
