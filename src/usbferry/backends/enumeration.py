"""Reading what a new device is, as a kernel does: its descriptors, a configuration, and its strings."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ..device import Device, DeviceError
from ..usb import setup as requests
from ..usb.descriptors import DescriptorError, parse_configuration, parse_device, parse_languages, parse_string
from ..usb.setup import Setup
from ..usb.transfer import Transfer
from ..usb.tree import Configuration, DescriptorType
from ..usb.types import Speed, Status

log: Final = logging.getLogger(__name__)
PREPARE_SECONDS: Final = 30.0  # for reading all the descriptors of a device
CONTROL_SECONDS: Final = 5.0  # for one request of these; USB 2.0 §9.2.6.1 allows as much
MAX_CONFIGURATIONS: Final = 8  # as Linux: USB_MAXCONFIG, drivers/usb/core/config.c


class Failed(DeviceError):
    """A request of ours to the device failed; the connection lives."""


class Stalled(Failed):
    """The device refused it."""


async def enumerate_device(device: Device, server: str) -> None:
    """Complete `device.info`, and set a configuration. Raises DeviceError; `server` is who has the device."""
    reader = _Reader(device, server)
    try:
        async with asyncio.timeout(PREPARE_SECONDS):
            await reader.read_descriptors()
            await reader.configure()
            await reader.read_strings()
    except DescriptorError as error:
        raise DeviceError(f"{reader.where} has broken descriptors: {error}") from error
    except TimeoutError:
        raise DeviceError(f"{reader.where} took longer than {PREPARE_SECONDS:g} s over its descriptors") from None


class _Reader:
    """Asks one device."""

    def __init__(self, device: Device, server: str) -> None:
        self.where = f"{device.info.name} at {server}"
        self._device = device
        self._info = device.info
        self._server = server

    async def read_descriptors(self) -> None:
        info = self._info
        info.device = parse_device(await self._descriptor(DescriptorType.DEVICE, 0, 18))
        found: list[Configuration] = []
        for index in range(min(info.device.configurations, MAX_CONFIGURATIONS)):
            head = await self._descriptor(DescriptorType.CONFIGURATION, index, 9)
            total = int.from_bytes(head[2:4], "little")
            if total < 9:
                raise DescriptorError(f"configuration {index} says it has {total} bytes")
            raw = await self._descriptor(DescriptorType.CONFIGURATION, index, total)
            usable = _usable(raw)
            if len(usable) < total:
                log.info("%s: configuration %d makes sense for %d of %d bytes", self.where, index, len(usable), total)
            found.append(parse_configuration(usable))
        info.configurations = tuple(found)
        if info.speed is Speed.UNKNOWN and info.device.usb >= 0x0300:
            info.speed = Speed.SUPER_PLUS  # Linux's tools have no word for it

    async def configure(self) -> None:
        """Set the configuration that is in force at the server, or the first: kernels do so with each new device.

        usbipd-win has no endpoints before (VBoxUsb opens them then), and what an earlier user left, halts and alternate
        settings of which the server says nothing, is over.
        """
        info = self._info
        if not info.configurations:
            return
        active = info.active
        try:
            await self._request(requests.set_configuration((active or info.configurations[0]).value))
        except Stalled as error:
            if active is None:
                raise
            log.debug("%s; it stays as it is", error)

    async def read_strings(self) -> None:
        """What people call it. What cannot be read stays empty; after a request without answer no other is tried."""
        info = self._info
        try:
            languages = parse_languages(await self._descriptor(DescriptorType.STRING, 0, 255))
            language = languages[0] if languages else 0
            info.manufacturer = await self._string(info.device.manufacturer, language)
            info.product = await self._string(info.device.product, language)
            info.serial = await self._string(info.device.serial, language)
        except (Failed, DescriptorError) as error:
            log.debug("%s has no strings: %s", self.where, error)

    async def _string(self, index: int, language: int) -> str:
        if not index:
            return ""
        try:
            wanted = requests.get_descriptor(DescriptorType.STRING, index, language=language, length=255)
            return parse_string(await self._request(wanted))
        except (Stalled, DescriptorError):
            return ""

    async def _descriptor(self, kind: DescriptorType, index: int, length: int) -> bytes:
        return await self._request(requests.get_descriptor(kind, index, length=length))

    async def _request(self, setup: Setup) -> bytes:
        """A control transfer without OUT data, for our own needs. Raises DeviceError when it fails."""
        transfer = Transfer(0x80 if setup.is_in else 0, setup.length, b"", setup.pack())
        answer = self._device.submit(transfer)
        if isinstance(answer, asyncio.Future):
            done, _ = await asyncio.wait([answer], timeout=CONTROL_SECONDS)
            if not done:
                self._device.cancel(transfer)
                raise Failed(f"{self.where} does not answer {setup}")
            answer = answer.result()
        if answer.status == Status.STALL:
            raise Stalled(f"{self.where} refuses {setup}")
        if self._device.gone.done():
            raise DeviceError(f"{self._server}: {self._device.gone.result()}")
        if answer.status != Status.OK:
            raise Failed(f"{self.where} answers {setup} with {Status(answer.status).name}")
        return bytes(answer.data)


def _usable(raw: bytes) -> bytes:
    """A configuration up to where its descriptors end or make no sense, as Linux takes it: usb_parse_configuration in
    drivers/usb/core/config.c is "skipping remainder of the config".
    """
    end = 0
    while end + 2 <= len(raw) and 2 <= raw[end] <= len(raw) - end:
        end += raw[end]
    return raw[:2] + end.to_bytes(2, "little") + raw[4:end] if end >= 4 else raw
