"""This machine's own kernel as an importer: the ports of vhci_hcd, read and written through sysfs, no tool needed.

A controller has two hubs, "hs" for devices up to high speed and "ss" for faster ones, and both number their ports on
from the controller before. How many there are of each is chosen when a kernel is built: the status files say it. Linux
before 4.13 has but one hub, and no column for it.

Sources: Linux drivers/usb/usbip/vhci_sysfs.c and vhci_hcd.c, of 4.9 to 6.12.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from ..device import Busy, DeviceError, NotFound
from ..usb.types import Speed

log: Final = logging.getLogger(__name__)

# enum usbip_device_status, drivers/usb/usbip/usbip_common.h; a status file shows no other of a port.
FREE: Final = 4  # VDEV_ST_NULL
NOT_ASSIGNED: Final = 5  # VDEV_ST_NOTASSIGNED: attached, without an address yet
USED: Final = 6  # VDEV_ST_USED
ERROR: Final = 7  # VDEV_ST_ERROR: until it is detached

ENUMERATE_SECONDS: Final = 60.0  # for the kernel to read a device's descriptors; it tries several times, 5 s each
FREE_SECONDS: Final = 20.0  # for it to let go of one
_POLL_SECONDS: Final = 0.01  # a status file cannot be waited for
_POLL_SECONDS_AT_MOST: Final = 0.2  # the longer it takes, the less often it is looked at
_LOAD: Final = "this kernel's USB/IP client is not loaded; as root: modprobe vhci-hcd"
_RELAYED: Final = "usbferry-relay"  # begins a record: one word where the tool wants three, so it shows no address
_relays: Final = count(1)  # of this process, so that no two of their records are the same
_NOT_ROOT: Final = "the kernel lets only root attach and detach devices: run it with sudo"


class Port(NamedTuple):
    """One port of one hub: a row of a status file."""

    number: int
    hub: str  # "hs" or "ss"
    state: int
    speed: int  # as enum usb_device_speed; 0 unless USED, and so on
    devid: int  # bus << 16 | address at the exporter
    socket: str  # a file descriptor in the attaching process; a kernel address before Linux 4.14.8
    device: str  # its name in this machine's sysfs, such as "1-1"; empty where it has none

    @property
    def is_attached(self) -> bool:
        """Whether something is attached. A controller that is not ready says NOT_ASSIGNED of all its ports."""
        return self.state in (USED, ERROR)


class Record(NamedTuple):
    """Where an attached device comes from, as the `usbip` tool keeps it."""

    host: str
    port: str
    name: str  # its bus id there


class Vhci:
    """The ports of this machine. `root` is where its file system begins; tests have one of their own."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._per_file = 0  # rows of a status file, of which a controller has one; 0 before it is known
        self._platform = root / "sys/devices/platform"
        self._devices = root / "sys/bus/usb/devices"
        self._records = root / "var/run/vhci_hcd"  # VHCI_STATE_PATH, tools/usb/usbip/libsrc/vhci_driver.h
        self._notes = root / "run/usbferry-relays"

    @property
    def _folder(self) -> Path:
        """What has the files; "vhci_hcd" alone was its name until Linux 4.9. Raises DeviceError when there is none."""
        for name in ("vhci_hcd.0", "vhci_hcd"):
            if (self._platform / name / "attach").exists():
                return self._platform / name
        if not sys.platform.startswith("linux"):
            raise DeviceError("only Linux has a kernel that devices can be attached to")
        raise DeviceError(_not_loaded(self._root))

    # -- what there is ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises DeviceError, with the remedy, where nothing can be attached; better now than with a device claimed."""
        if not os.access(self._folder / "attach", os.W_OK):
            raise DeviceError(_NOT_ROOT)

    def ports(self) -> list[Port]:
        """Every port of every controller, by number. Raises DeviceError."""
        found: list[Port] = []
        for path in self._folder.glob("status*"):
            found += parse_status(_read(path))
        return sorted(found)

    def port(self, number: int) -> Port:
        """One port; what is asked again and again reads no more than its file. Raises NotFound, DeviceError."""
        if not self._per_file:
            self._per_file = len(parse_status(_read(self._folder / "status")))
        file = number // max(self._per_file, 1)
        path = self._folder / (f"status.{file}" if file else "status")
        for port in parse_status(_read(path)) if path.exists() else ():
            if port.number == number:
                return port
        raise NotFound(f"there is no port {number}; `usbferry ports` lists those in use")

    def path(self, port: Port) -> Path:
        """The folder of the attached device in sysfs."""
        return self._devices / port.device

    def attribute(self, port: Port, name: str) -> str:
        """What sysfs says of the attached device, such as its "product"; empty where it says nothing."""
        try:
            return _read(self.path(port) / name).rstrip("\n")
        except (OSError, DeviceError):
            return ""

    def interfaces(self, port: Port) -> tuple[tuple[int, int, int], ...]:
        """Class, subclass and protocol of each interface of the attached device."""
        names = ("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")
        found = []
        for path in sorted(self.path(port).glob(f"{port.device}:*")):
            with suppress(OSError, ValueError, DeviceError):  # gone this moment
                kind, sub, protocol = (int(_read(path / name), 16) for name in names)
                found.append((kind, sub, protocol))
        return tuple(found)

    def drivers(self, port: Port) -> list[str]:
        """The drivers that took its interfaces, each once, in the order of the interfaces."""
        links = sorted(self.path(port).glob(f"{port.device}:*/driver"))
        return list(dict.fromkeys(link.resolve().name for link in links))

    def note_path(self, number: int) -> Path:
        """Where the relay that a port is attached through says what it is; see `local.ports`."""
        return self._notes / f"port{number}.json"

    # -- attach and detach --------------------------------------------------------------------------------------------

    def attach(self, socket: int, devid: int, speed: Speed) -> int:
        """Give the kernel a connection whose device is imported; the port that it took.

        `socket` is the descriptor of a stream socket. The kernel keeps the connection, whatever becomes of the
        descriptor. Others may attach at the same time: a port that they were quicker at is passed over.
        Raises DeviceError.
        """
        hub = "ss" if speed >= Speed.SUPER else "hs"
        passed_over: set[int] = set()
        while True:
            ports = [port for port in self.ports() if port.hub == hub]
            free = [port.number for port in ports if port.state == FREE and port.number not in passed_over]
            if not free:
                raise _full(hub, len(ports))
            if self._try(free[0], f"{free[0]} {socket} {devid} {min(speed, Speed.SUPER):d}"):
                return free[0]
            passed_over.add(free[0])

    def _try(self, number: int, words: str) -> bool:
        """Whether the kernel took it. EAGAIN is a controller that is not ready."""
        try:
            _write(self._folder / "attach", words)
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EAGAIN) or self.port(number).state != FREE:
                return False  # kernels before 4.20 said EINVAL of a port in use
            raise _explained(error, f"the kernel refuses the device (port, socket, devid, speed: {words})") from error
        return True

    def detach(self, number: int) -> None:
        """Tell the kernel to let go of a port. Raises NotFound when nothing is attached to it, and DeviceError."""
        if self.port(number).state == FREE:
            raise NotFound(f"nothing is attached to port {number}; `usbferry ports` lists those in use")
        try:
            _write(self._folder / "detach", str(number))
        except OSError as error:
            if error.errno != errno.EINVAL or self.port(number).state != FREE:  # or it went this moment
                raise _explained(error, f"the kernel does not detach port {number}") from error

    async def wait_enumerated(self, number: int) -> Port:
        """Wait until the kernel has read what the device is. Raises DeviceError when it gave up."""

        def is_over() -> bool:
            port = self.port(number)
            return port.state in (FREE, ERROR) or (port.state == USED and self.path(port).exists())

        in_time = await until(is_over, ENUMERATE_SECONDS)
        port = self.port(number)
        if port.state in (FREE, ERROR):
            raise DeviceError("the kernel dropped the device again; `dmesg` may say why")
        if not in_time:
            raise DeviceError(f"the kernel could not read the device in {ENUMERATE_SECONDS:g} s; `dmesg` says more")
        return port

    async def wait_free(self, was: Port) -> bool:
        """Wait until `was` is attached no longer, and its device gone; whether it came to that."""

        def is_over() -> bool:
            now = self.port(was.number)
            if was.state == USED and now.state in (NOT_ASSIGNED, USED) and now[2:6] != was[2:6]:
                return True
            return now.state == FREE and not (was.device and self.path(was).exists())

        with suppress(NotFound, DeviceError):  # the module itself was unloaded
            if self.port(was.number).state == ERROR:
                self.detach(was.number)
            if not await until(is_over, FREE_SECONDS):
                log.warning("port %d is not free after %g s", was.number, FREE_SECONDS)
                return False
        return True

    # -- the records of the usbip tool --------------------------------------------------------------------------------

    def write_record(self, number: int, record: Record | None) -> str:
        """Say where the device on a port comes from, to `usbip port` and to us; its text, "" if it cannot be written.

        None is a place that is no USB/IP server: the tool says "unknown host" of it, as of a port without a record,
        and removes the record all the same when somebody detaches with it.
        """
        text = " ".join(record) if record else f"{_RELAYED}-{os.getpid()}-{next(_relays)}"
        try:
            self._records.mkdir(mode=0o755, parents=True, exist_ok=True)
            (self._records / f"port{number}").write_text(f"{text}\n")
        except OSError as error:
            log.warning("where port %d comes from cannot be noted: %s", number, error)
            return ""
        return text

    def has_record(self, number: int, text: str = "") -> bool:
        """Whether there is one, of this text, or whatever it says."""
        path = self._records / f"port{number}"
        try:
            return path.read_text() == f"{text}\n" if text else path.exists()
        except (OSError, ValueError):
            return False

    def read_record(self, number: int) -> Record | None:
        try:
            return Record(*(self._records / f"port{number}").read_text().split())
        except (OSError, ValueError, TypeError):
            return None

    def remove_record(self, number: int) -> None:
        """As `usbip detach` does, before it detaches: a port that goes free with its record was lost."""
        with suppress(OSError):
            (self._records / f"port{number}").unlink()


def parse_status(text: str) -> list[Port]:
    """The rows of a status file, of any kernel since 4.9. Raises DeviceError for one that is none.

    hub port sta spd dev      sockfd local_busid         Linux 4.13 and later; a pointer in place of sockfd to 4.14.8
    port sta spd dev      socket           local_busid   4.10 to 4.12
    prt sta spd bus dev socket           local_busid     4.9, where bus and dev are one number, but two in free rows
    """
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if not words:
            continue
        hub = words.pop(0) if words[0] in ("hs", "ss") else "hs"
        try:
            number, state, speed, devid, *rest, socket, device = words
            if len(rest) > 1:
                raise ValueError
            name = "" if device == "0-0" else device
            found.append(Port(int(number), hub, int(state), int(speed), int(devid, 16), socket, name))
        except ValueError:
            raise DeviceError(f"the kernel's list of ports has a row that is not understood: {line!r}") from None
    return found


def _full(hub: str, count: int) -> DeviceError:
    if not count:
        return DeviceError("this kernel's USB/IP client takes no SuperSpeed devices; Linux 4.13 and later do")
    kind = "SuperSpeed " if hub == "ss" else ""
    return Busy(f"all {count} {kind}ports of this kernel are in use; `usbferry ports` lists them, `detach` frees one")


def _explained(error: OSError, otherwise: str) -> DeviceError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return DeviceError(_NOT_ROOT)
    if error.errno == errno.ENOENT:
        return DeviceError(_LOAD)
    return DeviceError(f"{otherwise}: {error.strerror}")


def _not_loaded(root: Path) -> str:
    """What to do where the module is not in the kernel: load it, if this kernel has it."""
    release = os.uname().release
    modules = root / "lib/modules" / release
    if not (modules / "modules.dep").exists():
        return f"there are no modules of Linux {release} here, as in a container: load vhci-hcd where they are, as root"
    if any((modules / "kernel/drivers/usb/usbip").glob("vhci[-_]hcd.ko*")):
        return _LOAD
    with suppress(OSError):
        if re.search(r"[/ ]vhci[-_]hcd\.ko", (modules / "modules.dep").read_text(errors="replace")):
            return _LOAD  # in a folder of its distribution
        if re.search(r"^ID=\"?ubuntu", (root / "etc/os-release").read_text(errors="replace"), re.MULTILINE):
            return f"this kernel's USB/IP client is not installed; as root: apt install linux-modules-extra-{release}"
    return f"this kernel, Linux {release}, has no USB/IP client: it was built without vhci-hcd, or it is not installed"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        raise DeviceError(_LOAD) from None  # unloaded this moment


def _write(path: Path, words: str) -> None:
    """One write, as sysfs wants it."""
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, words.encode())
    finally:
        os.close(file)


async def until(is_over: Callable[[], bool], seconds: float) -> bool:
    """Wait for something that can only be looked at; whether it was so within the time."""
    loop = asyncio.get_running_loop()
    end, wait = loop.time() + seconds, _POLL_SECONDS
    while not is_over():
        if loop.time() >= end:
            return False
        await asyncio.sleep(wait)
        wait = min(wait * 1.3, _POLL_SECONDS_AT_MOST)
    return True
