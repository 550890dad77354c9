"""What a device says of itself: its descriptors and strings, each asked for. What it refuses is left out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Final

from ..device import Claimant, Device
from ..registry import open_source
from ..selector import choose
from ..usb import setup as requests
from ..usb.descriptors import DescriptorError, parse_bos, parse_string
from ..usb.info import DeviceInfo
from ..usb.setup import Request, Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import Bos, DescriptorType, Interface
from ..usb.types import Status

REPORT_DESCRIPTOR: Final = 0x22  # HID 1.11 §7.1
_HID, _HID_DESCRIPTOR = 0x03, 0x21
_ASK_SECONDS: Final = 2.0
_MOST_STRINGS: Final = 64
_REFUSALS: Final = 3  # one after the other, behind those that have a name: there are no more


@dataclass(slots=True)
class Portrait:
    """What a device says of itself."""

    info: DeviceInfo
    strings: dict[int, str] = field(default_factory=dict)
    bos: Bos | None = None
    reports: dict[int, bytes] = field(default_factory=dict)  # interface -> HID report descriptor


async def portray(address: str) -> Portrait:
    """Claim a device for a moment, and ask it what it is. Raises DeviceError, or ValueError for a bad address."""
    source = open_source(address)
    try:
        device = await source.open(
            source.name or choose(await source.find(), address, source.at).name, Claimant("local")
        )
        try:
            return await look(device)
        finally:
            await device.close()
    finally:
        await source.close()


async def look(device: Device) -> Portrait:
    """Ask an open device for all that it says of itself."""
    portrait = Portrait(replace(device.info))
    info = portrait.info
    portrait.strings = await _strings(device, string_indices(info))
    if info.device.usb >= 0x0201 and (raw := await _descriptor(device, DescriptorType.BOS, length=0xFFFF)):
        try:
            portrait.bos = parse_bos(raw)
        except DescriptorError:
            portrait.bos = None
    for interface in info.interfaces:
        if interface.interface_class == _HID and (length := _report_length(interface)):
            setup = Setup(0x81, Request.GET_DESCRIPTOR, REPORT_DESCRIPTOR << 8, interface.number, length)
            if raw := await _asked(device, setup):
                portrait.reports[interface.number] = raw
    return portrait


async def _strings(device: Device, named: list[int]) -> dict[int, str]:
    """All strings in the device's first language: class-specific descriptors name some that are behind the others."""
    found: dict[int, str] = {}
    refused = 0
    languages = await _descriptor(device, DescriptorType.STRING) if named else b""
    for index in range(1, _MOST_STRINGS) if len(languages) >= 4 else ():
        raw = await _descriptor(device, DescriptorType.STRING, index, int.from_bytes(languages[2:4], "little"))
        try:
            found[index], refused = parse_string(raw), 0
        except DescriptorError:
            refused += 1
            if index > named[-1] and refused == _REFUSALS:
                break
    return found


def string_indices(info: DeviceInfo) -> list[int]:
    """The strings that the standard descriptors name, in order."""
    device = info.device
    found = {device.manufacturer, device.product, device.serial}
    for configuration in info.configurations:
        found |= {configuration.string, *(a.string for a in configuration.associations)}
        found |= {interface.string for interface in configuration.interfaces}
    return sorted(found - {0})


def _report_length(interface: Interface) -> int:
    """wDescriptorLength of the report descriptor, HID 1.11 §6.2.1; 0 for none."""
    hid = next((raw for raw in interface.extra if raw[1] == _HID_DESCRIPTOR and len(raw) >= 9), b"")
    return int.from_bytes(hid[7:9], "little") if hid and hid[6] == REPORT_DESCRIPTOR else 0


async def _descriptor(device: Device, kind: int, index: int = 0, language: int = 0, length: int = 255) -> bytes:
    return await _asked(device, requests.get_descriptor(kind, index, language=language, length=length))


async def _asked(device: Device, setup: Setup) -> bytes:
    """The answer; b"" where it is refused, or late."""
    answer = await ask(device, setup)
    return bytes(answer.data) if answer.status == Status.OK else b""


async def ask(device: Device, setup: Setup) -> Completion:
    """The answer to a request without data of ours; one that takes too long is cancelled."""
    transfer = Transfer(0x80, setup.length, b"", setup.pack())
    answer = device.submit(transfer)
    if isinstance(answer, asyncio.Future):
        await asyncio.wait([answer], timeout=_ASK_SECONDS)
        if not answer.done():
            device.cancel(transfer)
        answer = await answer
    return answer
