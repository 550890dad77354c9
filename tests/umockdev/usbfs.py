"""The kernel's side of libusb, played: /dev/bus/usb and sysfs of virtual devices, for programs that run under umockdev.

    libusb -- ioctl --> libumockdev-preload --> this process --> a device of usbferry's, the answer the same way back

Runs in Debian's own python3, which has the bindings of umockdev. Commands are lines of JSON on standard input, answered
on standard output; see `Bench`. What each ioctl does is from Linux drivers/usb/core/devio.c.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import gi

gi.require_version("UMockdev", "1.0")
from gi.repository import UMockdev  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
from usbferry.backends.virtual import make  # noqa: E402
from usbferry.devices.virtual import VirtualDevice  # noqa: E402
from usbferry.usb import build  # noqa: E402
from usbferry.usb.setup import Setup, clear_halt, set_configuration, set_interface  # noqa: E402
from usbferry.usb.transfer import Completion, Flags, IsoPacket, Transfer  # noqa: E402
from usbferry.usb.tree import DeviceDescriptor, Interface  # noqa: E402
from usbferry.usb.types import Status  # noqa: E402

# Linux errno values, which are those of every architecture that Debian's umockdev tests run on
ERRNO = {
    Status.OK: 0,
    Status.STALL: errno.EPIPE,
    Status.CANCELLED: errno.ENOENT,
    Status.GONE: errno.ESHUTDOWN,
    Status.SHUTDOWN: errno.ENOENT,
    Status.SHORT: errno.EREMOTEIO,
    Status.OVERFLOW: errno.EOVERFLOW,
    Status.PROTOCOL: errno.EPROTO,
    Status.NOT_DONE: errno.EXDEV,
    Status.INVALID: errno.EINVAL,
}

ISO, INTERRUPT, CONTROL, BULK = range(4)  # USBDEVFS_URB_TYPE_*
URB_SHORT_NOT_OK, URB_ZERO_PACKET = 0x01, 0x40  # USBDEVFS_URB_*
# ZERO_PACKET, NO_PACKET_SIZE_LIM, REAP_AFTER_DISCONNECT: as an xHCI port's, but for scatter-gather
CAPABILITIES = 0x01 | 0x04 | 0x10
URB = struct.Struct("<BBxxiIxxxxQiiiiiIQ")  # struct usbdevfs_urb, 64 bits
SPEEDS = {1: "1.5", 2: "12", 3: "480", 5: "5000", 6: "10000"}
DRIVERS = {
    0x02: "cdc_acm",
    0x09: "hub",
    0x03: "usbhid",
    0x07: "usblp",
    0x08: "usb-storage",
    0x0A: "cdc_acm",
    0xFF: "usbtest",
}
RESPITE = 0.001  # seconds that an empty reap waits: the node is a plain file, which libusb polls without end


class Urb:
    """One that was submitted and is not reaped yet."""

    def __init__(self, place: Any, buffer: Any, transfer: Transfer, kind: int) -> None:
        self.place, self.buffer, self.transfer, self.kind = place, buffer, transfer, kind

    def finish(self, completion: Completion) -> None:
        """Write the result into the program's memory: processcompl of devio.c."""
        transfer = self.transfer
        status = (
            0 if self.kind == ISO and completion.status == Status.OK else ERRNO.get(completion.status, errno.EPROTO)
        )
        actual = completion.actual
        if self.kind == ISO:
            self._packets(completion)
        elif transfer.is_in and completion.data:
            self.buffer.update(8 if self.kind == CONTROL else 0, bytes(completion.data))
        self.place.update(4, struct.pack("<i", -status))
        self.place.update(28, struct.pack("<i", actual))

    def _packets(self, completion: Completion) -> None:
        data, at = bytes(completion.data), 0
        errors = 0
        for number, packet in enumerate(completion.packets or self.transfer.packets or ()):
            status = ERRNO.get(packet.status, errno.EPROTO) if completion.packets else errno.EXDEV
            errors += bool(status)
            self.place.update(56 + 12 * number + 4, struct.pack("<Ii", packet.actual, -status))
            if self.transfer.is_in and packet.actual:
                self.buffer.update(packet.offset, data[at : at + packet.actual])
                at += packet.actual
        self.place.update(40, struct.pack("<i", errors))


class File:
    """One open node: what it claimed, its URBs. `wire` is the socket by which umockdev has it, a duplicate of ours."""

    def __init__(self, wire: socket.socket | None) -> None:
        self.wire = wire
        self.claims: set[int] = set()
        self.pending: dict[int, Urb] = {}  # by the address of the program's struct
        self.done: collections.deque[Urb] = collections.deque()
        self.reaper: Any = None
        self.timer: asyncio.TimerHandle | None = None

    def is_closed(self) -> bool:
        """Whether its program closed it, or is no more."""
        poll = select.poll()
        if self.wire is not None:
            poll.register(self.wire, 0)  # of a hang-up it tells unasked
        return bool(poll.poll(0))


class Node(UMockdev.IoctlBase):  # type: ignore[misc]
    """A device's node: one virtual device, and who has it open."""

    def __init__(self, bench: Bench, name: str, device: VirtualDevice, address: int) -> None:
        super().__init__()
        self.bench, self.name, self.device, self.address = bench, name, device, address
        self.files: dict[Any, File] = {}
        self.wires: set[str] = set()  # the sockets that were looked at, as /proc names them
        self.counts: collections.Counter[str] = collections.Counter()
        self.drivers: dict[int, str] = {}
        self.shown: list[str] = []  # its interfaces in sysfs
        self.is_here = True
        self.next_reset = ""  # "another" or "gone"
        self.capabilities = CAPABILITIES
        self.memory = 1000  # URBs at once
        self.is_asleep = False

    # -- umockdev's side, in a thread of its own ----------------------------------------------------------------------

    def do_client_connected(self, client: Any) -> None:
        self.bench.loop.call_soon_threadsafe(self._connected, client, self._new_wire())

    def _new_wire(self) -> socket.socket | None:
        """The socket that was accepted this moment.

        umockdev does not tell of a program that is killed while its ioctl is being answered: then it is never read from
        again. So we have to see for ourselves.
        """
        end = f"/ioctl/dev/bus/usb/001/{self.address:03}"
        for name in os.listdir("/proc/self/fd"):
            try:
                link = os.readlink(f"/proc/self/fd/{name}")
                if not link.startswith("socket:") or link in self.wires:
                    continue
                wire = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            self.wires.add(link)
            is_ours = wire.family == socket.AF_UNIX and str(wire.getsockname()).endswith(end)
            if is_ours and not wire.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return wire
            wire.close()
        return None

    def do_client_vanished(self, client: Any) -> None:
        self.bench.loop.call_soon_threadsafe(self._vanished, client)

    def do_handle_ioctl(self, client: Any) -> bool:
        self.bench.loop.call_soon_threadsafe(self._handle, client)
        return True

    # -- and from here on in ours -------------------------------------------------------------------------------------

    def _connected(self, client: Any, wire: socket.socket | None) -> None:
        self.files[client] = File(wire)

    def prune(self) -> None:
        """Forget the files of programs that closed them, or are no more."""
        for client, file in tuple(self.files.items()):
            if file.is_closed() or not client.get_connected():
                self._vanished(client)

    def _vanished(self, client: Any) -> None:
        file = self.files.pop(client, None)
        if file is None:
            return
        if file.timer:
            file.timer.cancel()
        if file.wire is not None:
            file.wire.close()
        for urb in tuple(file.pending.values()):
            self.device.cancel(urb.transfer)
        for number in tuple(file.claims):
            self._release(file, number)

    def _handle(self, client: Any) -> None:
        request = client.get_request() & 0xFFFFFFFF
        name = IOCTLS.get(request, hex(request))
        self.counts[name] += 1
        try:
            if not self.is_here and name not in ("REAPURB", "REAPURBNDELAY", "DISCARDURB", "RELEASEINTERFACE"):
                raise OSError(errno.ENODEV, "unplugged")
            handler = getattr(self, f"_{name.lower()}", None)
            if handler is None:
                raise OSError(errno.ENOTTY, name)
            result = handler(client, self.files[client], client.get_arg())
        except OSError as error:
            client.complete(-1, error.errno)
        except Exception as error:
            print(f"{name}: {error!r}", file=sys.stderr, flush=True)
            client.complete(-1, errno.EINVAL)
        else:
            if result is not None:
                client.complete(result, 0)

    # -- settings -----------------------------------------------------------------------------------------------------

    def _get_capabilities(self, client: Any, file: File, arg: Any) -> int:
        arg.resolve(0, 4).update(0, struct.pack("<I", self.capabilities))
        return 0

    def _get_speed(self, client: Any, file: File, arg: Any) -> int:
        return int(self.device.info.speed)

    def _conninfo_ex(self, client: Any, file: File, arg: Any) -> int:
        raise OSError(errno.ENOTTY, "an older kernel's")

    def _getdriver(self, client: Any, file: File, arg: Any) -> int:
        place = arg.resolve(0, 260)
        (number,) = struct.unpack_from("<I", bytes(place.retrieve()))
        name = self._holder(number)
        if name is None:
            raise OSError(errno.ENODATA, "no driver")
        place.update(4, name.encode() + b"\0")
        return 0

    def _claiminterface(self, client: Any, file: File, arg: Any) -> int:
        self._claim(file, _number(arg))
        return 0

    def _disconnect_claim(self, client: Any, file: File, arg: Any) -> int:
        number, flags, driver = struct.unpack_from("<II256s", bytes(arg.resolve(0, 264).retrieve()))
        holder, named = self._holder(number), driver.partition(b"\0")[0].decode()
        if holder is not None and (holder == named) == bool(flags & 2) and flags & 3:
            raise OSError(errno.EBUSY, "another driver than was said")
        self._unbind(number)
        self._claim(file, number)
        return 0

    def _claim(self, file: File, number: int) -> None:
        if number in file.claims:
            return
        if number not in {i.number for i in self.device.info.interfaces}:
            raise OSError(errno.ENOENT, "no such interface")
        if self._holder(number) is not None:
            raise OSError(errno.EBUSY, "it has a driver")
        file.claims.add(number)
        self.bench.show_driver(self, number, "usbfs")

    def _releaseinterface(self, client: Any, file: File, arg: Any) -> int:
        number = _number(arg)
        if number not in file.claims:
            raise OSError(errno.EINVAL, "not claimed")
        self._release(file, number)
        return 0

    def _release(self, file: File, number: int) -> None:
        """As usb_driver_release_interface: no driver has it then, and its alternate setting is 0."""
        file.claims.discard(number)
        if self.is_here:
            self._kill(file, number)
            if self.device.info.alternates.get(number):
                self._ask(set_interface(number, 0))
            self.bench.show_driver(self, number, None)

    def _ioctl(self, client: Any, file: File, arg: Any) -> int:
        number, code = struct.unpack_from("<iI", bytes(arg.resolve(0, 16).retrieve()))
        if code == 0x5516:  # USBDEVFS_DISCONNECT
            self.counts["DISCONNECT"] += 1
            if self._holder(number) in (None, "usbfs"):
                raise OSError(errno.ENODATA, "no driver")
            self._unbind(number)
        elif code == 0x5517:  # USBDEVFS_CONNECT
            self.counts["CONNECT"] += 1
            if self._holder(number) is not None:
                raise OSError(errno.EBUSY, "it has a driver")
            self.bind(number)
        else:
            raise OSError(errno.ENOTTY, hex(code))
        return 0

    def _setinterface(self, client: Any, file: File, arg: Any) -> int:
        number, alternate = struct.unpack("<II", bytes(arg.resolve(0, 8).retrieve()))
        if number not in file.claims:
            raise OSError(errno.EINVAL, "not claimed")
        self._kill(file, number)
        return self._ask(set_interface(number, alternate))

    def _setconfiguration(self, client: Any, file: File, arg: Any) -> int:
        value = max(0, struct.unpack("<i", bytes(arg.resolve(0, 4).retrieve()))[0])
        if any(self._holder(i.number) for i in self.device.info.interfaces):
            raise OSError(errno.EBUSY, "an interface has a driver")
        is_same = value == self.device.info.configuration
        result = self._ask(set_configuration(value))
        if is_same:  # "a cheap device reset": usb_reset_configuration, no driver is asked
            return result
        self.bench.show_interfaces(self)
        self.bind_all()
        return result

    def _clear_halt(self, client: Any, file: File, arg: Any) -> int:
        address = _number(arg)
        self._check_endpoint(file, address)
        return self._ask(clear_halt(address))

    def _reset(self, client: Any, file: File, arg: Any) -> int:
        if self.next_reset:
            how, self.next_reset = self.next_reset, ""
            self.bench.comes_back(self, how)
            raise OSError(errno.ENODEV, "it is another device now")
        for other in self.files.values():
            self._kill(other, None)
        self.device.reset()
        return 0

    def _alloc_streams(self, client: Any, file: File, arg: Any) -> int:
        count, _ = struct.unpack("<II", bytes(arg.resolve(0, 8).retrieve()))
        self.streams = min(count, 16)
        return self.streams

    def _free_streams(self, client: Any, file: File, arg: Any) -> int:
        self.streams = 0
        return 0

    def _ask(self, setup: Setup) -> int:
        """A request of the kernel's own to the device."""
        answer = self.device.submit(Transfer(0, 0, b"", setup.pack()))
        if not isinstance(answer, Completion):
            raise OSError(errno.ETIMEDOUT, "it does not answer")
        if answer.status != Status.OK:
            raise OSError(ERRNO.get(answer.status, errno.EPROTO), str(setup))
        return 0

    # -- drivers ------------------------------------------------------------------------------------------------------

    def _holder(self, number: int) -> str | None:
        self.prune()
        if any(number in file.claims for file in self.files.values()):
            return "usbfs"
        return self.drivers.get(number)

    def bind(self, number: int) -> None:
        """The kernel's own driver takes an interface, if there is one for it."""
        interface = next((i for i in self.device.info.interfaces if i.number == number), None)
        driver = DRIVERS.get(interface.interface_class) if interface is not None else None
        if driver is not None and self._holder(number) is None:
            self.drivers[number] = driver
            self.bench.show_driver(self, number, driver)

    def bind_all(self) -> None:
        for interface in self.device.info.interfaces:
            self.bind(interface.number)

    def _unbind(self, number: int) -> None:
        self.drivers.pop(number, None)
        self.bench.show_driver(self, number, None)

    # -- URBs ---------------------------------------------------------------------------------------------------------

    def _submiturb(self, client: Any, file: File, arg: Any) -> int:
        if len(file.pending) >= self.memory:
            raise OSError(errno.ENOMEM, "usbfs_memory_mb")
        if self.is_asleep:
            raise OSError(errno.EHOSTUNREACH, "suspended: usb_hcd_link_urb_to_ep of hcd.c")
        place = arg.resolve(0, URB.size)
        kind, endpoint, _, flags, _, length, _, _, packets, *_ = URB.unpack(bytes(place.retrieve()))
        if kind == ISO:
            place = self._whole(place, URB.size + 12 * packets)
            raw = bytes(place.retrieve())
            length = sum(struct.unpack_from("<I", raw, URB.size + 12 * number)[0] for number in range(packets))
        buffer = place.resolve(16, length) if length else None
        data = bytes(buffer.retrieve()) if buffer is not None else b""
        transfer = self._transfer(file, kind, endpoint, flags, data, packets, place)
        urb = Urb(place, buffer, transfer, kind)
        file.pending[place.client_addr] = urb
        answer = self.device.submit(transfer)
        if isinstance(answer, Completion):
            self._completed(file, urb, answer)
        else:
            answer.add_done_callback(lambda done: self._completed(file, urb, done.result()))
        return 0

    def _whole(self, place: Any, size: int) -> Any:
        """The struct at its full size: umockdev resolves a pointer only once, so one is put where nobody looks.

        That is `error_count`, which is written when the URB ends, and `signr`, which libusb does not use.
        """
        place.update(40, struct.pack("<Q", place.client_addr))
        return place.resolve(40, size)

    def _transfer(
        self, file: File, kind: int, endpoint: int, flags: int, data: bytes, packets: int, place: Any
    ) -> Transfer:
        wanted = Flags.SHORT_NOT_OK * bool(flags & URB_SHORT_NOT_OK) | Flags.ZERO_PACKET * bool(flags & URB_ZERO_PACKET)
        if kind == CONTROL:
            setup = Setup.parse(data[:8])
            payload = b"" if setup.is_in else data[8 : 8 + setup.length]
            return Transfer(0x80 if setup.is_in else 0, setup.length, payload, data[:8])
        self._check_endpoint(file, endpoint)
        if kind == ISO:
            raw, at, list_ = bytes(place.retrieve()), 0, []
            for number in range(packets):
                (length,) = struct.unpack_from("<I", raw, URB.size + 12 * number)
                list_.append(IsoPacket(at, length))
                at += length
            return Transfer(endpoint, at, b"" if endpoint & 0x80 else data, packets=list_)
        return Transfer(endpoint, len(data), b"" if endpoint & 0x80 else data, flags=wanted, stream_id=packets)

    def _check_endpoint(self, file: File, address: int) -> None:
        for interface in self.device.info.interfaces:
            if any(endpoint.address == address for endpoint in interface.endpoints):
                if interface.number not in file.claims:
                    raise OSError(errno.EBUSY, "not claimed")
                return
        raise OSError(errno.ENOENT, "no such endpoint")

    def _completed(self, file: File, urb: Urb, completion: Completion) -> None:
        if file.pending.pop(urb.place.client_addr, None) is None:
            return
        if file not in self.files.values():
            return  # closed
        urb.completion = completion
        file.done.append(urb)
        if file.reaper is not None:
            client, file.reaper = file.reaper, None
            file.timer.cancel()
            self._reap(client, file)

    def _reapurbndelay(self, client: Any, file: File, arg: Any) -> None:
        if file.done:
            self._reap(client, file)
        elif not self.is_here and not file.pending:
            client.complete(-1, errno.ENODEV)
        else:
            file.reaper = client
            file.timer = self.bench.loop.call_later(RESPITE, self._nothing, client, file)

    _reapurb = _reapurbndelay

    def _nothing(self, client: Any, file: File) -> None:
        file.reaper = None
        client.complete(-1, errno.EAGAIN)

    def _reap(self, client: Any, file: File) -> None:
        urb = file.done.popleft()
        urb.finish(urb.completion)
        client.get_arg().resolve(0, 8).set_ptr(0, urb.place)
        client.complete(0, 0)

    def _discardurb(self, client: Any, file: File, arg: Any) -> int:
        (address,) = struct.unpack("<Q", bytes(arg.retrieve()))
        urb = file.pending.get(address)
        if urb is None:
            raise OSError(errno.EINVAL, "it has ended")
        self.device.cancel(urb.transfer)
        return 0

    def _kill(self, file: File, number: int | None) -> None:
        """End the URBs of an interface, or of all."""
        mine = {e.address for i in self.device.info.interfaces if i.number == number for e in i.endpoints}
        for urb in tuple(file.pending.values()):
            if number is None or urb.transfer.endpoint in mine:
                self.device.cancel(urb.transfer)


IOCTLS = {
    0x8038550A: "SUBMITURB",
    0x0000550B: "DISCARDURB",
    0x4008550C: "REAPURB",
    0x4008550D: "REAPURBNDELAY",
    0x8004550F: "CLAIMINTERFACE",
    0x80045510: "RELEASEINTERFACE",
    0x80045505: "SETCONFIGURATION",
    0x80085504: "SETINTERFACE",
    0x80045515: "CLEAR_HALT",
    0x41045508: "GETDRIVER",
    0xC0105512: "IOCTL",
    0x00005514: "RESET",
    0x8004551A: "GET_CAPABILITIES",
    0x8108551B: "DISCONNECT_CLAIM",
    0x8008551C: "ALLOC_STREAMS",
    0x8008551D: "FREE_STREAMS",
    0x0000551F: "GET_SPEED",
    0x80185520: "CONNINFO_EX",
}


def _number(arg: Any) -> int:
    return int(struct.unpack("<I", bytes(arg.resolve(0, 4).retrieve()))[0])


class Hub(VirtualDevice):
    """A hub, as far as its descriptors go."""

    descriptor = DeviceDescriptor(0x1D6B, 0x0104, device_class=9)
    product = "Hub"

    def interfaces(self) -> tuple[Interface, ...]:
        return (Interface(0, interface_class=9, endpoints=(self.interrupt(0x81, 1, 12),)),)


class Bench:
    """What is plugged in. Each command is a method; its arguments are the line's other keys."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.testbed = UMockdev.Testbed.new()
        self.root = self.testbed.get_root_dir()
        os.chmod(self.root, 0o755)
        self.nodes: dict[str, Node] = {}
        self.addresses = 1
        self.hub = self.testbed.add_from_string(
            "P: /devices/usb1\nN: bus/usb/001/001\nE: SUBSYSTEM=usb\nE: DEVTYPE=usb_device\n"
            "E: BUSNUM=001\nE: DEVNUM=001\nE: DEVNAME=/dev/bus/usb/001/001\n"
            "A: busnum=1\\n\nA: devnum=1\\n\nA: speed=480\\n\nA: bConfigurationValue=1\\n\nH: descriptors="
            + (HUB + HUB_CONFIGURATION).hex().upper()
            + "\n"
        )

    async def where(self) -> dict[str, Any]:
        return {"root": self.root}

    async def plug(self, name: str, device: str, options: dict[str, str], faults: list[str]) -> dict[str, Any]:
        """A virtual device into a port: `name` is its bus id."""
        made = make(device, options, faults)
        await made.open()
        await self._plug(name, made)
        return {"node": f"/dev/bus/usb/001/{self.nodes[name].address:03}"}

    async def _plug(self, name: str, device: VirtualDevice) -> None:
        self.addresses += 1
        node = self.nodes[name] = Node(self, name, device, self.addresses)
        device.left = lambda *_: self._left(node)
        info = device.info
        raw = build.device(info.device) + b"".join(build.configuration(c) for c in info.configurations)
        path, dev = f"bus/usb/001/{node.address:03}", raw.hex().upper()
        attributes = {
            "busnum": 1,
            "devnum": node.address,
            "speed": SPEEDS[info.speed],
            "bConfigurationValue": info.configuration,
            "bNumConfigurations": len(info.configurations),
            "idVendor": f"{info.device.vendor_id:04x}",
            "idProduct": f"{info.device.product_id:04x}",
            "manufacturer": info.manufacturer,
            "product": info.product,
            "serial": info.serial,
        }
        self.testbed.add_from_string(
            f"P: /devices/usb1/{name}\nN: {path}={dev}\nE: SUBSYSTEM=usb\nE: DEVTYPE=usb_device\n"
            f"E: DEVNAME=/dev/{path}\nE: BUSNUM=001\nE: DEVNUM={node.address:03}\n"
            + "".join(f"A: {key}={value}\\n\n" for key, value in attributes.items() if value != "")
            + f"H: descriptors={dev}\n"
        )
        self.testbed.attach_ioctl(f"/dev/{path}", node)
        self.show_interfaces(node)
        node.bind_all()
        self.testbed.uevent(f"/sys/devices/usb1/{name}", "add")

    def _left(self, node: Node) -> None:
        """The device left by itself, or was pulled out: its URBs have ended with ESHUTDOWN by now."""
        if not node.is_here:
            return
        node.is_here = False
        if self.nodes.get(node.name) is node:
            del self.nodes[node.name]
        self.testbed.uevent(f"/sys/devices/usb1/{node.name}", "remove")
        for path in (*node.shown, f"/sys/devices/usb1/{node.name}"):
            self.testbed.remove_device(path)

    def comes_back(self, node: Node, how: str) -> None:
        """A reset after which it is gone, or another one: what a loader does that starts new firmware."""
        device = node.device
        device.vanish("reset", become=(0x1209, 0xB007))
        if how == "another":
            asyncio.get_running_loop().create_task(self._again(node.name, device))

    async def _again(self, name: str, device: VirtualDevice) -> None:
        await device.close()
        await device.open()
        await self._plug(name, device)

    async def plug_hub(self, name: str) -> dict[str, Any]:
        """A hub with nothing behind it."""
        device = Hub()
        await device.open()
        await self._plug(name, device)
        return {}

    async def names(self) -> dict[str, Any]:
        """What is plugged in."""
        return {"names": [*self.nodes]}

    async def unplug(self, name: str, missing_ok: bool = False) -> dict[str, Any]:
        """Pull it out."""
        node = self.nodes.get(name)
        if node is None and missing_ok:
            return {}
        assert node is not None, f"nothing in {name}"
        node.device.vanish("pulled out")
        await node.device.close()
        return {}

    async def state(self, name: str) -> dict[str, Any]:
        """What the kernel would know of it."""
        node = self.nodes[name]
        node.prune()
        return {
            "claims": sorted(number for file in node.files.values() for number in file.claims),
            "drivers": {str(number): driver for number, driver in node.drivers.items()},
            "open": len(node.files),
            "configuration": node.device.info.configuration,
            "alternates": {str(key): value for key, value in node.device.info.alternates.items() if value},
            "counts": dict(node.counts),
        }

    async def forget(self, name: str) -> dict[str, Any]:
        """Count its ioctls from 0 again."""
        self.nodes[name].counts.clear()
        return {}

    async def set(self, name: str, **what: Any) -> dict[str, Any]:
        """Change an attribute of a node: `next_reset`, `capabilities`, `memory`."""
        for key, value in what.items():
            setattr(self.nodes[name], key, value)
        return {}

    async def sleep(self, name: str) -> dict[str, Any]:
        """The system has suspended it."""
        self.nodes[name].is_asleep = True
        folder = f"{self.root}/sys/devices/usb1/{name}/power"
        os.makedirs(folder, exist_ok=True)
        self.testbed.set_attribute(f"/sys/devices/usb1/{name}", "power/runtime_status", "suspended\n")
        return {}

    async def permit(self, name: str, mode: int) -> dict[str, Any]:
        """The rights of a node's file."""
        os.chmod(self.root, 0o777)
        for path, folders, files in os.walk(self.root):
            for one in (Path(path, file) for file in (*folders, *files)):
                if not one.is_symlink():
                    one.chmod(0o777)
        os.chmod(f"{self.root}/dev/bus/usb/001/{self.nodes[name].address:03}", mode)
        return {}

    def show_interfaces(self, node: Node) -> None:
        """The interfaces of the configuration in force, in sysfs."""
        info = node.device.info
        self.testbed.set_attribute(f"/sys/devices/usb1/{node.name}", "bConfigurationValue", f"{info.configuration}\n")
        while node.shown:
            self.testbed.remove_device(node.shown.pop())
        for interface in info.interfaces:
            name = f"{node.name}:{info.configuration}.{interface.number}"
            node.shown.append(f"/sys/devices/usb1/{node.name}/{name}")
            self.testbed.add_from_string(
                f"P: /devices/usb1/{node.name}/{name}\nE: SUBSYSTEM=usb\nE: DEVTYPE=usb_interface\n"
                f"A: bInterfaceNumber={interface.number:02x}\\n\n"
                f"A: bInterfaceClass={interface.interface_class:02x}\\n\n"
            )

    def show_driver(self, node: Node, number: int, driver: str | None) -> None:
        name = f"{node.name}:{node.device.info.configuration}.{number}"
        link = Path(self.root, "sys/devices/usb1", node.name, name, "driver")
        link.unlink(missing_ok=True)
        if driver is not None and link.parent.exists():
            link.symlink_to(f"../../../../bus/usb/drivers/{driver}")

    async def run(self) -> None:
        """Answer commands until standard input ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            try:
                answer = await getattr(self, command.pop("do"))(**command)
            except Exception as error:
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)


# a root hub, as lsusb shows them; nobody opens it
HUB = bytes.fromhex("12010002090001406b1d020001060302 0101".replace(" ", ""))
HUB_CONFIGURATION = bytes.fromhex("0902190001010 0e000 090400000109000000 0705810304000c".replace(" ", ""))


async def main() -> None:
    await Bench().run()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests end it
    asyncio.run(main())
