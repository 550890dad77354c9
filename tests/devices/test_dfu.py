"""The device with replaceable firmware: its two lives, and DFU's state diagram as a host sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.devices.host import ask, opened
from usbferry.backends.virtual import VirtualSource
from usbferry.device import Claimant, ResetOutcome
from usbferry.devices.dfu import Dfu, Request, State, Status
from usbferry.devices.flash import Flash, NotErased, OutOfRange
from usbferry.registry import open_source
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Status as Ended

ME = Claimant("local")
FIRMWARE = bytes(range(256)) * 20


async def do(device: Dfu, request: Request, value: int = 0, data: bytes = b"") -> bool:
    """An OUT request; whether it was accepted."""
    completion = ask(device, Setup(0x21, request, value, 0, len(data)), data)
    assert isinstance(completion, Completion)
    return completion.status == Ended.OK


async def get(device: Dfu, request: Request, length: int, value: int = 0) -> bytes:
    completion = ask(device, Setup(0xA1, request, value, 0, length))
    assert isinstance(completion, Completion)
    assert completion.status == Ended.OK
    return bytes(completion.data)


async def status(device: Dfu) -> tuple[Status, State]:
    raw = await get(device, Request.GETSTATUS, 6)
    return Status(raw[0]), State(raw[4])


async def download(device: Dfu, image: bytes, block: int = 1024) -> None:
    for number, at in enumerate(range(0, len(image), block)):
        assert await do(device, Request.DNLOAD, number, image[at : at + block])
        assert await status(device) == (Status.OK, State.DOWNLOAD_IDLE)
    assert await do(device, Request.DNLOAD, 0)


async def command(device: Dfu, code: int, address: int) -> tuple[Status, State]:
    """A DfuSe command; how it ended."""
    assert await do(device, Request.DNLOAD, 0, bytes([code]) + address.to_bytes(4, "little"))
    assert (await status(device))[1] in (State.DOWNLOAD_BUSY, State.ERROR)
    return await status(device)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what nobody tells of."""
    for _ in range(2000):
        if await holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come")


async def is_in(device: Dfu, *states: State) -> bool:
    return (await status(device))[1] in states


class Plugged:
    """A device in its source, where it leaves and comes back."""

    def __init__(self, device: Dfu) -> None:
        self.source = VirtualSource("virtual:dfu", device)
        self.device = device

    async def is_there(self) -> bool:
        return bool(await self.source.list())

    async def reclaimed(self) -> tuple[int, str]:
        """Wait until it is there again, and claim it; its product id and name."""
        await self.device.gone
        await self.device.close()
        await until(self.is_there)
        await self.source.open("", ME)
        return self.device.info.device.product_id, self.device.info.product


# -- two lives ---------------------------------------------------------------------------------------------------------


async def test_from_the_runtime_to_the_bootloader_and_back_with_new_firmware(tmp_path):
    plugged = Plugged(Dfu(file=tmp_path / "fw.bin"))
    device = plugged.device
    await plugged.source.open("", ME)
    assert (device.info.device.product_id, device.info.classes) == (5, ((0xFE, 1, 1),))
    assert await do(device, Request.DETACH, 1000)
    assert await plugged.reclaimed() == (3, "Bootloader")
    assert device.info.classes == ((0xFE, 1, 2),)
    await download(device, FIRMWARE)
    assert await status(device) == (Status.OK, State.MANIFEST)
    assert await plugged.reclaimed() == (5, "Device with DFU")
    assert (tmp_path / "fw.bin").read_bytes() == FIRMWARE
    assert device.flash.content.startswith(FIRMWARE)
    assert Dfu(file=tmp_path / "fw.bin").flash.content == device.flash.content
    await plugged.source.close()


async def test_descriptors_and_strings_are_those_of_the_life():
    plugged = Plugged(Dfu(bootloader=True, transfer=256, dfuse=True))
    await plugged.source.open("", ME)
    device = plugged.device
    raw = ask(device, Setup(0x80, 6, 0x0200, 0, 255))
    assert isinstance(raw, Completion)
    assert bytes(raw.data)[18:] == bytes.fromhex("09 21 0b e8 03 00 01 1a 01")
    layout = ask(device, Setup(0x80, 6, 0x0304, 0x0409, 255))
    assert isinstance(layout, Completion)
    assert bytes(layout.data)[2:].decode("utf-16-le") == "@Flash /0x08000000/64*001Kg"
    assert await do(device, Request.DETACH)
    assert await plugged.reclaimed() == (5, "Device with DFU")
    product = ask(device, Setup(0x80, 6, 0x0302, 0x0409, 255))
    assert isinstance(product, Completion)
    assert bytes(product.data)[2:].decode("utf-16-le") == "Device with DFU"
    await plugged.source.close()


async def test_one_that_does_not_detach_waits_for_its_reset():
    plugged = Plugged(Dfu(will_detach=False))
    device = plugged.device
    await plugged.source.open("", ME)
    assert await device.reset() is ResetOutcome.SAME
    assert await do(device, Request.DETACH, 1000)
    assert await get(device, Request.GETSTATE, 1) == bytes([State.APP_DETACH])
    assert await device.reset() is ResetOutcome.ANOTHER
    assert await plugged.reclaimed() == (3, "Bootloader")
    assert await device.reset() is ResetOutcome.SAME, "an idle bootloader stays"
    await download(device, FIRMWARE)
    await until(lambda: is_in(device, State.MANIFEST_WAIT_RESET))
    assert await device.reset() is ResetOutcome.ANOTHER
    assert await plugged.reclaimed() == (5, "Device with DFU")
    await plugged.source.close()


async def test_a_reset_that_does_not_come_in_time_is_no_longer_waited_for():
    async with opened(Dfu(will_detach=False)) as device:
        assert await do(device, Request.DETACH, 1)
        await until(lambda: is_in(device, State.APP_IDLE))
        assert await device.reset() is ResetOutcome.SAME


async def test_a_tolerant_one_goes_on_and_leaves_when_it_is_reset():
    plugged = Plugged(Dfu(bootloader=True, tolerant=True))
    device = plugged.device
    await plugged.source.open("", ME)
    for _ in range(2):
        await download(device, FIRMWARE)
        await until(lambda: is_in(device, State.IDLE))
    assert await device.reset() is ResetOutcome.ANOTHER
    assert (await plugged.reclaimed())[0] == 5
    await plugged.source.close()


async def test_a_host_that_goes_leaves_what_it_downloaded_in_whole():
    plugged = Plugged(Dfu(bootloader=True, will_detach=False))
    device = plugged.device
    await plugged.source.open("", ME)
    await download(device, FIRMWARE)
    await status(device)
    await device.close()
    assert device.is_bootloader

    async def is_runtime() -> bool:
        return [info.device.product_id for info in await plugged.source.list()] == [5]

    await until(is_runtime)
    assert device.flash.content.startswith(FIRMWARE)
    await plugged.source.close()


async def test_a_host_that_goes_in_the_midst_leaves_an_idle_bootloader():
    device = Dfu(bootloader=True)
    async with opened(device):
        assert await do(device, Request.DNLOAD, 0, b"part")
    async with opened(device):
        assert await status(device) == (Status.OK, State.IDLE)
        assert device.flash.content == b"\xff" * len(device.flash.content)


# -- the state diagram -------------------------------------------------------------------------------------------------


async def test_the_runtime_refuses_what_is_the_bootloaders():
    async with opened(Dfu()) as device:
        assert not await do(device, Request.DNLOAD, 0, b"x")
        assert await status(device) == (Status.OK, State.APP_IDLE)
        assert not await do(device, Request.CLRSTATUS)


async def test_what_comes_out_of_turn_is_an_error_until_it_is_cleared():
    async with opened(Dfu(bootloader=True)) as device:
        assert not await do(device, Request.DNLOAD)  # empty, and nothing before it
        assert await status(device) == (Status.STALLED, State.ERROR)
        assert not await do(device, Request.DNLOAD, 0, b"x")
        assert await do(device, Request.CLRSTATUS)
        assert await status(device) == (Status.OK, State.IDLE)
        assert await do(device, Request.DNLOAD, 0, b"x")
        assert not await do(device, Request.DNLOAD, 1, b"before the status was asked for")
        assert not await do(device, Request.ABORT)
        assert await do(device, Request.CLRSTATUS)


async def test_a_download_may_be_aborted():
    async with opened(Dfu(bootloader=True)) as device:
        assert await do(device, Request.DNLOAD, 0, b"x")
        assert (await status(device))[1] is State.DOWNLOAD_IDLE
        assert await do(device, Request.ABORT)
        assert (await status(device))[1] is State.IDLE


async def test_blocks_and_images_that_are_too_long():
    async with opened(Dfu(bootloader=True, size=2048, transfer=1024)) as device:
        assert not await do(device, Request.DNLOAD, 0, bytes(1025))
        assert await do(device, Request.CLRSTATUS)
        for number in range(2):
            assert await do(device, Request.DNLOAD, number, bytes(1024))
            assert (await status(device))[1] is State.DOWNLOAD_IDLE
        assert await do(device, Request.DNLOAD, 2, b"x")
        assert await status(device) == (Status.ADDRESS, State.ERROR)


async def test_a_slow_one_says_for_how_long_it_is_busy():
    async with opened(Dfu(bootloader=True, busy=0.05)) as device:
        assert await do(device, Request.DNLOAD, 0, b"x")
        raw = await get(device, Request.GETSTATUS, 6)
        assert (raw[1:4], raw[4]) == (b"\x32\0\0", State.DOWNLOAD_BUSY)
        await until(lambda: is_in(device, State.DOWNLOAD_IDLE))


async def test_firmware_that_cannot_be_kept_is_an_error(tmp_path):
    (tmp_path / "folder").mkdir()
    async with opened(Dfu(bootloader=True, file=tmp_path / "folder" / "fw")) as device:
        (tmp_path / "folder").rmdir()
        await download(device, FIRMWARE)
        await until(lambda: is_in(device, State.ERROR))
        assert await status(device) == (Status.WRITE, State.ERROR)


async def test_upload_gives_the_flash_and_ends_with_less_than_was_asked_for():
    device = Dfu(bootloader=True, size=2048)
    device.flash.replace(FIRMWARE[:100])
    async with opened(device):
        pieces = [await get(device, Request.UPLOAD, 1000, number) for number in range(3)]
        assert [len(piece) for piece in pieces] == [1000, 1000, 48]
        assert b"".join(pieces) == device.flash.content
        assert (await status(device))[1] is State.IDLE
        refused = ask(device, Setup(0xA1, Request.UPLOAD, 0, 0, 1025))
        assert isinstance(refused, Completion)
        assert refused.status == Ended.STALL
        assert await status(device) == (Status.STALLED, State.ERROR)


async def test_another_interface_is_refused():
    async with opened(Dfu()) as device:
        completion = ask(device, Setup(0xA1, Request.GETSTATUS, 0, 1, 6))
        assert isinstance(completion, Completion)
        assert completion.status == Ended.STALL


# -- DfuSe -------------------------------------------------------------------------------------------------------------


async def test_dfuse_erases_and_writes_where_it_is_told():
    async with opened(Dfu(bootloader=True, dfuse=True, size=4096, page=1024, transfer=256)) as device:
        start = 0x0800_0000
        device.flash.write(start, bytes(4096))
        assert await command(device, 0x41, start + 1024) == (Status.OK, State.DOWNLOAD_IDLE)
        assert await command(device, 0x21, start + 1024) == (Status.OK, State.DOWNLOAD_IDLE)
        for block in (2, 3):
            assert await do(device, Request.DNLOAD, block, FIRMWARE[:256])
            assert (await status(device))[1] is State.DOWNLOAD_BUSY
            assert (await status(device))[1] is State.DOWNLOAD_IDLE
        assert device.flash.content == bytes(1024) + FIRMWARE[:512] + b"\xff" * 512 + bytes(2048)
        assert await do(device, Request.ABORT)
        assert await get(device, Request.UPLOAD, 256, 3) == FIRMWARE[:256]
        assert await get(device, Request.UPLOAD, 16, 0) == b"\x00\x21\x41"


async def test_dfuse_tells_what_cannot_be_written():
    async with opened(Dfu(bootloader=True, dfuse=True, size=4096)) as device:
        assert await command(device, 0x41, 0x2000_0000) == (Status.ADDRESS, State.ERROR)
        assert await do(device, Request.CLRSTATUS)
        assert await command(device, 0x99, 0) == (Status.TARGET, State.ERROR)
        assert await do(device, Request.CLRSTATUS)
        device.flash.write(0x0800_0000, b"\0")
        assert await do(device, Request.DNLOAD, 2, b"\x01")
        assert await status(device) == (Status.CHECK_ERASED, State.ERROR)
        assert await do(device, Request.CLRSTATUS)
        assert await do(device, Request.DNLOAD, 0, b"\x41")  # all of it
        assert (await status(device))[1] is State.DOWNLOAD_BUSY
        assert device.flash.content == b"\xff" * 4096


# -- the flash ---------------------------------------------------------------------------------------------------------


def test_flash_bits_become_0_until_they_are_erased():
    flash = Flash(2048, 1024, 0x100, None)
    flash.write(0x100, b"\xf0")
    flash.write(0x100, b"\x80")
    with pytest.raises(NotErased):
        flash.write(0x100, b"\x01")
    flash.erase(0x100 + 1023)
    assert flash.read(0x100, 1) == b"\xff"
    with pytest.raises(OutOfRange):
        flash.write(0x100 + 2047, b"xx")
    with pytest.raises(OutOfRange):
        flash.erase(0xFF)
    assert flash.read(0xFF, 1) == b""


@pytest.mark.parametrize(
    ("size", "page", "address"), [(0, 1, 0), (100, 64, 0), (64, 0, 0), (64, 64, 1 << 32), (1 << 30, 1, 0)]
)
def test_a_flash_without_sense(size, page, address):
    with pytest.raises(ValueError, match="a flash of"):
        Flash(size, page, address, None)


def test_a_file_in_no_folder_is_told_before_it_is_served(tmp_path):
    with pytest.raises(ValueError, match=r"^dfu: /.*/no/fw is no place for a file$"):
        open_source(f"virtual:dfu?file={tmp_path}/no/fw")


def test_a_file_that_does_not_fit(tmp_path):
    path: Path = tmp_path / "fw"
    path.write_bytes(bytes(100))
    with pytest.raises(ValueError, match="100 bytes"):
        Dfu(file=path, size=64, page=64)


@pytest.mark.parametrize("options", [{"transfer": 4}, {"transfer": 8192}, {"busy": -1}])
def test_options_without_sense(options):
    with pytest.raises(ValueError, match="block"):
        Dfu(**options)
