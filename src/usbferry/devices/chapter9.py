"""Chapter 9: the standard requests, one method each, and the state they read and change. No transfers, no I/O.

    DEFAULT/ADDRESS --SET_CONFIGURATION(n)--> CONFIGURED --SET_CONFIGURATION(0)--> ADDRESS

Addresses are the bridge's business, so the Default state is not told from Address. Source: USB 2.0 §9.4, USB 3.2 §9.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Final

from ..usb import build
from ..usb.info import DeviceInfo
from ..usb.setup import Feature, Recipient, Request, Setup
from ..usb.tree import Bos, Configuration, DescriptorType, DeviceDescriptor, Interface
from ..usb.types import Speed, TransferType

ENGLISH: Final = 0x0409  # US English, the one language of the declared strings
SELF_POWERED: Final = 0x40  # of a configuration's bmAttributes
REMOTE_WAKEUP: Final = 0x20
_FULL_SPEED_PACKETS: Final = {TransferType.BULK: 64, TransferType.INTERRUPT: 64, TransferType.ISOCHRONOUS: 1023}


class Stall(Exception):
    """A request that the device refuses."""


class Chapter9:
    """The standard behaviour of one device with the given descriptors. Hooks tell the subclass what changed."""

    def __init__(self, info: DeviceInfo, strings: Mapping[int, str], bos: Bos | None) -> None:
        self.info = info
        self._strings = dict(strings)
        self._bos = bos
        self._features: set[int] = set()  # of the device
        self._suspended_functions: dict[int, int] = {}  # interface -> options of FUNCTION_SUSPEND

    @property
    def texts(self) -> Mapping[int, str]:
        """Its string table."""
        return self._strings

    # -- hooks --------------------------------------------------------------------------------------------------------

    def configured(self, value: int) -> None:
        """A configuration came into force; 0 is none. Every endpoint starts afresh, also when it is the same one."""

    def interface_set(self, number: int, alternate: int) -> None:
        """An interface came into an alternate setting, perhaps the one it was in: its endpoints start afresh."""

    def is_halted(self, endpoint: int) -> bool | None:
        """Whether an endpoint is halted; None when the current settings have no such endpoint."""
        raise NotImplementedError

    def set_halt(self, endpoint: int, halted: bool) -> None:
        """Halt an endpoint, or clear its halt and its data toggle."""

    # -- requests -----------------------------------------------------------------------------------------------------

    def standard(self, setup: Setup, data: bytes) -> bytes:
        """Carry out a standard request and give its data stage, uncut. Raises Stall."""
        handler = _HANDLERS.get((setup.request_type, setup.request))
        if handler is None:
            raise Stall
        return handler(self, setup)

    def _get_status_device(self, setup: Setup) -> bytes:
        if setup.index or setup.value:
            raise Stall
        active = self.info.active
        bits = int(bool(active and active.attributes & SELF_POWERED))
        bits |= (Feature.DEVICE_REMOTE_WAKEUP in self._features) << 1
        for place, feature in enumerate((Feature.U1_ENABLE, Feature.U2_ENABLE, Feature.LTM_ENABLE)):
            bits |= (feature in self._features) << 2 + place
        return bits.to_bytes(2, "little")

    def _get_status_interface(self, setup: Setup) -> bytes:
        interface = self._interface(setup.index & 0xFF)
        if self.info.speed < Speed.SUPER:
            return b"\0\0"
        wake = self._suspended_functions.get(interface.number, 0) >> 1 & 1
        capable = bool(self.info.active and self.info.active.attributes & REMOTE_WAKEUP)
        return bytes([capable | wake << 1, 0])

    def _get_status_endpoint(self, setup: Setup) -> bytes:
        return bytes([self._halt(setup.index), 0])

    def _clear_feature_device(self, setup: Setup) -> bytes:
        self._features.discard(self._device_feature(setup))
        return b""

    def _set_feature_device(self, setup: Setup) -> bytes:
        self._features.add(self._device_feature(setup))
        return b""

    def _device_feature(self, setup: Setup) -> int:
        active = self.info.active
        if setup.value == Feature.DEVICE_REMOTE_WAKEUP and self.info.speed < Speed.SUPER:
            if active is not None and active.attributes & REMOTE_WAKEUP:
                return setup.value
        elif (
            setup.value in (Feature.U1_ENABLE, Feature.U2_ENABLE)
            and self.info.speed >= Speed.SUPER
            and active is not None
        ):
            return setup.value
        raise Stall

    def _feature_interface(self, setup: Setup) -> bytes:
        """FUNCTION_SUSPEND is the one feature of an interface, and of SuperSpeed alone (USB 3.2 §9.4.9)."""
        interface = self._interface(setup.index & 0xFF)
        if setup.value != Feature.FUNCTION_SUSPEND or self.info.speed < Speed.SUPER:
            raise Stall
        options = setup.index >> 8 if setup.request == Request.SET_FEATURE else 0
        self._suspended_functions[interface.number] = options
        return b""

    def _clear_feature_endpoint(self, setup: Setup) -> bytes:
        self._halt(setup.index)
        if setup.value != Feature.ENDPOINT_HALT:
            raise Stall
        self.set_halt(setup.index & 0x8F, False)
        return b""

    def _set_feature_endpoint(self, setup: Setup) -> bytes:
        """Bulk and interrupt endpoints have the feature; the default one need not, isochronous ones cannot stall."""
        self._halt(setup.index)
        if setup.value != Feature.ENDPOINT_HALT or self._is_isochronous(setup.index & 0x8F):
            raise Stall
        if setup.index & 0x0F:
            self.set_halt(setup.index & 0x8F, True)
        return b""

    def _get_descriptor(self, setup: Setup) -> bytes:
        kind, index = setup.value >> 8, setup.value & 0xFF
        if kind == DescriptorType.STRING:
            return self._string(index, setup.index)
        raw = self._descriptors.get((kind, index))
        if raw is None:
            raise Stall  # interface and endpoint descriptors too: they come with their configuration (§9.4.3)
        return raw

    def identify(self, device: DeviceDescriptor) -> None:
        """Be another device from now on, as a bootloader is."""
        self.info.device = device
        self.__dict__.pop("_descriptors", None)

    def redescribe(self, info: DeviceInfo, strings: Mapping[int, str]) -> None:
        """Be another device in all that it says of itself."""
        self.info = info
        self._strings = dict(strings)
        self.__dict__.pop("_descriptors", None)

    @cached_property
    def _descriptors(self) -> dict[tuple[int, int], bytes]:
        info = self.info
        table = {(int(DescriptorType.DEVICE), 0): build.device(info.device)}
        for index, configuration in enumerate(info.configurations):
            table[DescriptorType.CONFIGURATION, index] = build.configuration(configuration)
            if info.speed == Speed.HIGH:
                table[DescriptorType.OTHER_SPEED_CONFIGURATION, index] = build.other_speed(at_full_speed(configuration))
        if info.speed == Speed.HIGH and info.device.usb >= 0x0200:
            table[DescriptorType.DEVICE_QUALIFIER, 0] = build.qualifier(build.qualifier_of(info.device))
        if self._bos is not None and info.device.usb >= 0x0201:
            table[DescriptorType.BOS, 0] = build.bos(self._bos)
        return table

    def _string(self, index: int, language: int) -> bytes:
        if not self._strings:
            raise Stall
        if index == 0:
            return build.languages((ENGLISH,))
        if index not in self._strings or language not in (0, ENGLISH):
            raise Stall
        return build.string(self._strings[index])

    def _get_configuration(self, setup: Setup) -> bytes:
        return bytes([self.info.configuration])

    def _set_configuration(self, setup: Setup) -> bytes:
        value = setup.value & 0xFF
        if value and all(c.value != value for c in self.info.configurations):
            raise Stall
        self.info.configuration = value
        self.info.alternates.clear()
        self._suspended_functions.clear()
        self.configured(value)
        return b""

    def _get_interface(self, setup: Setup) -> bytes:
        return bytes([self._interface(setup.index).alternate])

    def _set_interface(self, setup: Setup) -> bytes:
        interface = self._interface(setup.index)
        active = self.info.active
        assert active is not None
        if all((i.number, i.alternate) != (interface.number, setup.value) for i in active.interfaces):
            raise Stall
        self.info.alternates[interface.number] = setup.value
        self.interface_set(interface.number, setup.value)
        return b""

    def _synch_frame(self, setup: Setup) -> bytes:
        """Only isochronous endpoints with a repeating pattern have one; frame 0 is a truthful start for the rest."""
        if not self._is_isochronous(setup.index):
            raise Stall
        return b"\0\0"

    def _accept(self, setup: Setup) -> bytes:
        return b""

    def _accept_super(self, setup: Setup) -> bytes:
        if self.info.speed < Speed.SUPER:
            raise Stall
        return b""

    # -- what the requests look up ------------------------------------------------------------------------------------

    def _interface(self, number: int) -> Interface:
        for interface in self.info.interfaces:
            if interface.number == number:
                return interface
        raise Stall

    def _halt(self, endpoint: int) -> bool:
        if endpoint & 0x0F == 0:
            return False
        halted = self.is_halted(endpoint & 0x8F)
        if halted is None:
            raise Stall
        return halted

    def _is_isochronous(self, endpoint: int) -> bool:
        endpoints = (e for interface in self.info.interfaces for e in interface.endpoints)
        return any(e.address == endpoint and e.type is TransferType.ISOCHRONOUS for e in endpoints)

    def _reset_state(self) -> None:
        """What a port reset forgets."""
        self._features.clear()
        self._suspended_functions.clear()


_Standard = Callable[[Chapter9, Setup], bytes]
_DEVICE, _INTERFACE, _ENDPOINT = Recipient.DEVICE, Recipient.INTERFACE, Recipient.ENDPOINT
_HANDLERS: Final[dict[tuple[int, int], _Standard]] = {
    (0x80 | _DEVICE, Request.GET_STATUS): Chapter9._get_status_device,
    (0x80 | _INTERFACE, Request.GET_STATUS): Chapter9._get_status_interface,
    (0x80 | _ENDPOINT, Request.GET_STATUS): Chapter9._get_status_endpoint,
    (_DEVICE, Request.CLEAR_FEATURE): Chapter9._clear_feature_device,
    (_INTERFACE, Request.CLEAR_FEATURE): Chapter9._feature_interface,
    (_ENDPOINT, Request.CLEAR_FEATURE): Chapter9._clear_feature_endpoint,
    (_DEVICE, Request.SET_FEATURE): Chapter9._set_feature_device,
    (_INTERFACE, Request.SET_FEATURE): Chapter9._feature_interface,
    (_ENDPOINT, Request.SET_FEATURE): Chapter9._set_feature_endpoint,
    (_DEVICE, Request.SET_ADDRESS): Chapter9._accept,
    (0x80 | _DEVICE, Request.GET_DESCRIPTOR): Chapter9._get_descriptor,
    (0x80 | _DEVICE, Request.GET_CONFIGURATION): Chapter9._get_configuration,
    (_DEVICE, Request.SET_CONFIGURATION): Chapter9._set_configuration,
    (0x80 | _INTERFACE, Request.GET_INTERFACE): Chapter9._get_interface,
    (_INTERFACE, Request.SET_INTERFACE): Chapter9._set_interface,
    (0x80 | _ENDPOINT, Request.SYNCH_FRAME): Chapter9._synch_frame,
    (_DEVICE, Request.SET_SEL): Chapter9._accept_super,
    (_DEVICE, Request.SET_ISOCH_DELAY): Chapter9._accept_super,
}


def at_full_speed(configuration: Configuration) -> Configuration:
    """The same configuration as a full-speed port sees it: packet sizes within its limits, frames for microframes."""

    def slower(interface: Interface) -> Interface:
        endpoints = []
        for endpoint in interface.endpoints:
            limit = _FULL_SPEED_PACKETS.get(endpoint.type, 64)
            interval = endpoint.interval
            if endpoint.type is TransferType.INTERRUPT:
                interval = max(1, min(255, endpoint.interval_us(Speed.HIGH) // 1000))
            elif endpoint.type is TransferType.ISOCHRONOUS:
                interval = max(1, endpoint.interval - 3)
            endpoints.append(replace(endpoint, max_packet=min(endpoint.packet_size, limit), interval=interval))
        return replace(interface, endpoints=tuple(endpoints))

    return replace(configuration, interfaces=tuple(slower(i) for i in configuration.interfaces))


def strings_of(named: Iterable[str], others: Mapping[int, str]) -> dict[int, str]:
    """The string table: manufacturer, product and serial at 1, 2 and 3 where given, `others` at their own indices."""
    table = {index: text for index, text in enumerate(named, 1) if text}
    return {**table, **others}
