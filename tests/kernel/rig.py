"""What the kernel tests stand on: QEMU and a few tools from Debian, and Debian's kernel, unpacked but never installed.

    python tests/kernel/rig.py setup     install and download what is missing (packages: as root)
    python tests/kernel/rig.py status    say what is missing

The kernel lies in a cache outside the checkout: $USBFERRY_RIG, or usbferry-rig in the user's cache folder. Standard
library alone, so that setup runs before anything else is there.
"""

import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PACKAGES = {
    "qemu-system-x86": "the guest's machine",
    "busybox-static": "the first steps of the guest's boot",
    "kmod": "depmod for the unpacked kernel, modprobe in the guest",
    "iproute2": "the guest's network, and its faults",
    "python3-minimal": "runs usbtest.py in the guest",
    "usbip": "the kernel's own client and server",
    "usbredirect": "the reference usb-host, with devices of a guest",
    "libusbredirparser1": "what QEMU reads and writes usbredir with, beside our codec",
    "libvirt-daemon-driver-qemu": "machines as most people have them; inside virsh, no daemon runs",
    "libvirt-clients": "virsh",
    "libvirt-daemon": "what writes and reads saved machines for it",
    "libnss-wrapper": "the user that libvirt wants, without making it",
    "usbutils": "lsusb",
    "udev": "udevadm, which reads our rules",
    "dosfstools": "mkfs.vfat on an attached disk",
    "e2fsprogs": "mkfs.ext4 on an attached disk",
    "mtools": "reads and writes FAT file systems beside ours",
    "umockdev": "real libusb over virtual devices, on the host",
    "gir1.2-umockdev-1.0": "its bindings",
    "python3-gi": "Python's side of them",
    "alsa-utils": "aplay: sound through the kernel's own driver",
    "v4l-utils": "v4l2-compliance, which judges cameras by what their driver makes of them",
    "dfu-util": "what bootloaders are to be written with",
    "pcscd": "the driver of card readers, with libccid",
    "libccid": "the same",
    "python3-pyscard": "programs' way to both",
    "fido2-tools": "libfido2, which is to security keys what a driver is",
    "mtp-tools": "libmtp, which is to cameras and telephones what a driver is",
    "tshark": "a second decoder of our bytes",
}
KERNEL_PACKAGE = "linux-image-amd64"  # depends on the image proper, whose name carries the release

# In the guest before the host's files are: the buses, the file systems, the shell's port, the network.
EARLY_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "virtio_net")


class SetupError(Exception):
    """The rig cannot be set up here; the text names the remedy."""


def home() -> Path:
    """Where the unpacked kernels are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("USBFERRY_RIG") or Path(cache) / "usbferry-rig").resolve()


def is_required() -> bool:
    """Whether a kernel test that cannot run counts as failed."""
    return os.environ.get("USBFERRY_REQUIRE_KERNEL", "") not in ("", "0")


def missing_packages() -> list[str]:
    """What `apt-get install` would have to bring."""
    if not shutil.which("dpkg-query"):
        return list(PACKAGES)
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES], capture_output=True, text=True
    ).stdout
    return [name for name in PACKAGES if f"{name} installed" not in shown.splitlines()]


def missing() -> str | None:
    """Why the kernel tests cannot run, and the command that would change it; None where they can."""
    if packages := missing_packages():
        return f"packages are missing; as root: apt-get install {' '.join(packages)}"
    if Kernel.newest() is None:
        return f"no kernel in {home()}; to download one: python3 {os.path.relpath(__file__)} setup"
    return None


class Kernel:
    """One unpacked kernel: the image to boot and the folder of its modules."""

    def __init__(self, folder: Path) -> None:
        self.release = folder.name
        self.image = folder / "vmlinux"
        self.modules = folder / "lib" / "modules"  # what the guest mounts as /lib/modules

    @classmethod
    def newest(cls) -> "Kernel | None":
        """The last one downloaded, or None."""
        folders = sorted(home().glob("[0-9]*"), key=lambda folder: folder.stat().st_mtime)
        return cls(folders[-1]) if folders else None

    def initramfs(self, init: str, modules: Sequence[str] = EARLY_MODULES) -> bytes:
        """An archive that boots to `init`, a busybox script, with these modules at /modules in loading order."""
        archive = [
            _cpio_entry(name, 0o040755) for name in ("bin", "dev", "proc", "sys", "modules", "host", "rw", "root")
        ]
        archive.append(_cpio_entry("dev/console", 0o020600, device=(5, 1)))
        archive.append(_cpio_entry("bin/busybox", 0o100755, Path("/bin/busybox").read_bytes()))
        archive.append(_cpio_entry("init", 0o100755, init.encode()))
        for number, path in enumerate(self._loading_order(modules)):
            code = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
            archive.append(_cpio_entry(f"modules/{number:02}-{path.name.removesuffix('.xz')}", 0o100644, code))
        return b"".join([*archive, _cpio_entry("TRAILER!!!", 0)])

    def _loading_order(self, modules: Sequence[str]) -> list[Path]:
        """The files of some modules, each after those it needs; what is built in has none."""
        needs = {}
        for line in (self.modules / self.release / "modules.dep").read_text().splitlines():
            path, _, others = line.partition(":")
            name = Path(path).name.partition(".")[0].replace("-", "_")
            needs[name] = [*reversed(others.split()), path]
        order = dict.fromkeys(path for name in modules for path in needs.get(name, ()))
        return [self.modules / self.release / path for path in order]


def _cpio_entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One member of an initramfs. Layout: Linux Documentation/driver-api/early-userspace/buffer-format.rst, "newc"."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def setup() -> None:
    """Install and download what is missing; quick when nothing is. Raises SetupError."""
    if packages := missing_packages():
        if not shutil.which("apt-get") or os.geteuid() != 0:
            raise SetupError(missing())
        print(f"installing {' '.join(packages)}", flush=True)
        _apt("install", "-y", "--no-install-recommends", *packages)
    if Kernel.newest() is None:
        if not shutil.which("apt-get"):
            raise SetupError(f"the guest's kernel is Debian's {KERNEL_PACKAGE}: needs apt-get")
        _download_kernel()


def _download_kernel() -> None:
    """Put the current kernel into the cache, all of it or nothing."""
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=home()) as new:
        depends = _apt("depends", KERNEL_PACKAGE)
        found = re.search(r"Depends: linux-image-([0-9]\S*)", depends)
        if not found:
            raise SetupError(f"{KERNEL_PACKAGE} does not name a kernel: {depends}")
        release = found[1]
        print(f"downloading linux-image-{release} to {home()}", flush=True)
        _apt("download", f"linux-image-{release}", folder=new)
        unpacked = Path(new) / "unpacked"
        for package in Path(new).glob("*.deb"):
            _run(["dpkg", "-x", str(package), str(unpacked)])
        kernel = Path(new) / release
        (kernel / "lib").mkdir(parents=True)
        modules = next(path for path in unpacked.glob("**/lib/modules") if path.is_dir())
        modules.rename(kernel / "lib" / "modules")
        _run(["depmod", "-b", str(kernel), release])  # the package leaves it to its installation script
        (kernel / "vmlinux").write_bytes(_uncompressed((unpacked / "boot" / f"vmlinuz-{release}").read_bytes()))
        if not (home() / release).exists():  # another setup may have been quicker
            kernel.rename(home() / release)


def _uncompressed(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage: emulated, its own decompression takes seconds. As it is where not xz."""
    start = image.find(b"\xfd7zXZ\0")
    return image if start < 0 else lzma.LZMADecompressor().decompress(image[start:])


def _apt(verb: str, *words: str, folder: str | None = None) -> str:
    """Run apt; with fresh package lists where there are none or they turn out stale."""
    tool = "apt-cache" if verb == "depends" else "apt-get"
    command = [tool, "-q", "-o", "DPkg::Lock::Timeout=600", verb, *words]
    if any(Path("/var/lib/apt/lists").glob("*Packages*")):
        try:
            return _run(command, folder)
        except SetupError:
            if os.geteuid() != 0:
                raise
    elif os.geteuid() != 0:
        raise SetupError("no package lists; as root: apt-get update")
    _run(["apt-get", "-q", "-o", "DPkg::Lock::Timeout=600", "update"])
    return _run(command, folder)


def _run(command: list[str], folder: str | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
    )
    if done.returncode:
        raise SetupError(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main(verb: str) -> int:
    if verb == "setup":
        try:
            setup()
        except SetupError as error:
            print(f"kernel tests cannot run here: {error}", file=sys.stderr)
            return int(is_required())
    reason = missing()
    kernel = Kernel.newest()
    print(reason or f"kernel tests: ready, Linux {kernel.release if kernel else ''} in {home()}")
    return 1 if reason else 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("setup", "status"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
