"""The device's settings as an exporter tells them: configuration, alternate settings, and the endpoints they make.

The importer hears the infos anew before the status of what changed them, for it may use an endpoint at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol

from ...usb.info import DeviceInfo
from ...usb.setup import SET_CONFIGURATION, SET_INTERFACE, Setup, set_configuration, set_interface
from ...usb.transfer import Buffer, Completion, Transfer
from ...usb.types import Status, TransferType
from ..record import Record
from .codec import Packet
from .infos import Pipe, ep_info, interface_info, pipes_of
from .messages import AltSettingStatus, ConfigurationStatus, Type, WireStatus, wire_status

UNKNOWN: Final = 255  # the alternate setting of an interface that is not there


class Say(Protocol):
    """Sends a packet."""

    def __call__(self, kind: int, id: int, body: Record, data: Buffer = b"") -> None: ...


class Settings:
    """Of one device after the other. `has` says which packets the peer understands."""

    def __init__(self, say: Say, has: Callable[[int], bool]) -> None:
        self.pipes: dict[int, Pipe] = {}  # the endpoints in force, by address
        self.bulk: frozenset[int] = frozenset()  # those of them that are bulk endpoints
        self._info: DeviceInfo | None = None
        self._say = say
        self._has = has

    @property
    def info(self) -> DeviceInfo:
        """The device. There must be one."""
        assert self._info is not None
        return self._info

    def begin(self, info: DeviceInfo) -> None:
        """There is a device."""
        self._info = replace(info, alternates=dict(info.alternates))
        self.tell()

    def end(self) -> None:
        """There is none."""
        self._info, self.pipes, self.bulk = None, {}, frozenset()

    def has_endpoint(self, endpoint: int, kind: TransferType) -> bool:
        pipe = self.pipes.get(endpoint)
        return pipe is not None and pipe.type is kind

    def tell(self) -> None:
        """Say what is in force, where the dialect has a word for it."""
        self.pipes = pipes_of(self.info)
        self.bulk = frozenset(address for address, pipe in self.pipes.items() if pipe.type is TransferType.BULK)
        if self._has(Type.EP_INFO):
            self._say(Type.INTERFACE_INFO, 0, interface_info(self.info))
            self._say(Type.EP_INFO, 0, ep_info(self.pipes))

    # -- configurations -----------------------------------------------------------------------------------------------

    def get_configuration(self, packet: Packet) -> None:
        body = ConfigurationStatus(WireStatus.SUCCESS, self.info.configuration)
        self._say(Type.CONFIGURATION_STATUS, packet.id, body)

    def set_configuration(self, packet: Packet) -> Transfer:
        """The request that it stands for."""
        body: Any = packet.body
        return Transfer(0, 0, b"", set_configuration(body.configuration).pack())

    def configured(self, id: int, value: int, completion: Completion) -> None:
        """Infos before the status, unless nothing has changed; after a failure too, as the reference has it."""
        before = (self.info.configuration, dict(self.info.alternates))
        ok = completion.status == Status.OK
        if ok:
            self.info.configuration = value
            self.info.alternates.clear()
        if not ok or before != (value, {}):
            self.tell()
        status = WireStatus.SUCCESS if ok else WireStatus.IOERROR
        self._say(Type.CONFIGURATION_STATUS, id, ConfigurationStatus(status, self.info.configuration))

    # -- alternate settings -------------------------------------------------------------------------------------------

    def get_alternate(self, packet: Packet) -> None:
        body: Any = packet.body
        if self._has_interface(body.interface):
            now = self.info.alternates.get(body.interface, 0)
            self._say_alternate(packet.id, WireStatus.SUCCESS, body.interface, now)
        else:
            self._say_alternate(packet.id, WireStatus.INVAL, body.interface, UNKNOWN)

    def set_alternate(self, packet: Packet) -> Transfer | None:
        """The request that it stands for; None, and an answer, for an interface that is not there."""
        body: Any = packet.body
        if not self._has_interface(body.interface):
            self._say_alternate(packet.id, WireStatus.INVAL, body.interface, UNKNOWN)
            return None
        return Transfer(0, 0, b"", set_interface(body.interface, body.alternate).pack())

    def alternated(self, id: int, interface: int, alternate: int, completion: Completion) -> None:
        """The device answered."""
        if completion.status == Status.OK:
            self.info.alternates[interface] = alternate
            self.tell()
        now = self.info.alternates.get(interface, 0)
        self._say_alternate(id, wire_status(completion.status), interface, now)

    def follow(self, setup: Setup) -> None:
        """A control packet succeeded that changes settings; QEMU and the like have packets of their own for it."""
        kind = (setup.request_type, setup.request)
        if kind == SET_CONFIGURATION:
            self.info.configuration = setup.value & 0xFF
            self.info.alternates.clear()
            self.tell()
        elif kind == SET_INTERFACE:
            self.info.alternates[setup.index] = setup.value
            self.tell()

    def _has_interface(self, number: int) -> bool:
        return any(interface.number == number for interface in self.info.interfaces)

    def _say_alternate(self, id: int, status: WireStatus, interface: int, alternate: int) -> None:
        self._say(Type.ALT_SETTING_STATUS, id, AltSettingStatus(status, interface, alternate & 0xFF))
