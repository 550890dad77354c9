"""The printer: class requests, where prints go, and what it says while it cannot print."""

import asyncio
import os

import pytest

from tests.devices.host import ask, opened, read, write
from tests.devices.stream_host import pattern, send
from usbferry.device import DeviceError
from usbferry.devices.printer import OUT_OF_PAPER, READY, Port, Printer
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Speed, Status

OUT, IN = 0x01, 0x82
DEVICE_ID, PORT_STATUS = Setup(0xA1, 0, 0, 0, 255), Setup(0xA1, 1, 0, 0, 1)
DLE_EOT = b"\x10\x04"


def answered(device: Printer, setup: Setup) -> bytes:
    completion = ask(device, setup)
    assert isinstance(completion, Completion)
    assert completion.status == Status.OK
    return bytes(completion.data)


def refused(device: Printer, setup: Setup) -> bool:
    completion = ask(device, setup)
    assert isinstance(completion, Completion)
    return completion.status == Status.STALL


# -- what it says of itself --------------------------------------------------------------------------------------------


async def test_its_device_id_has_its_length_in_front():
    async with opened(Printer(product="TM-1")) as printer:
        text = b"MFG:usbferry;MDL:TM-1;CMD:ESC/POS;CLS:PRINTER;"
        assert answered(printer, DEVICE_ID) == bytes([0, len(text) + 2]) + text
        assert answered(printer, Setup(0xA1, 0, 0, 0, 2)) == bytes([0, len(text) + 2])
        assert refused(printer, Setup(0xA1, 0, 1, 0, 255))  # another configuration
        assert refused(printer, Setup(0xA1, 0, 0, 0x0100, 255))  # another interface


async def test_its_device_id_may_be_any():
    async with opened(Printer(id="MFG:ACME;MDL:1;CMD:PCL;")) as printer:
        assert answered(printer, DEVICE_ID)[2:] == b"MFG:ACME;MDL:1;CMD:PCL;"
    with pytest.raises(ValueError, match="ASCII"):
        Printer(id="MFG:Müller;")


@pytest.mark.parametrize(("both", "protocol", "endpoints"), [(True, 2, [OUT, IN]), (False, 1, [OUT])])
def test_its_interface(both, protocol, endpoints):
    [interface] = Printer(bidirectional=both).info.interfaces
    assert (interface.interface_class, interface.interface_subclass, interface.interface_protocol) == (7, 1, protocol)
    assert [e.address for e in interface.endpoints] == endpoints


def test_low_speed_has_no_bulk_endpoints():
    with pytest.raises(ValueError, match="low speed"):
        Printer(speed=Speed.LOW)


# -- printing ----------------------------------------------------------------------------------------------------------


async def test_what_is_printed_stays_in_memory():
    async with opened(Printer()) as printer:
        assert await send(printer, pattern(100_000), (512, 3, 70_000)) == 100_000
        assert printer.paper == pattern(100_000)
        await send(printer, bytes(1 << 20))
        assert printer.paper == bytes(1 << 20), "the last megabyte"


async def test_what_is_printed_goes_to_a_file(tmp_path):
    async with opened(Printer(to=f"file:{tmp_path / 'out'}")) as printer:
        assert await send(printer, pattern(200_000)) == 200_000
    assert (tmp_path / "out").read_bytes() == pattern(200_000)


async def test_what_is_printed_goes_to_a_network_printer():
    got, ended = bytearray(), asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.read())
        writer.close()
        ended.set()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(Printer(to=f"tcp://127.0.0.1:{port}")) as printer:
            await send(printer, pattern(100_000))
        await ended.wait()
    assert bytes(got) == pattern(100_000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are Unix's")
async def test_what_is_printed_goes_to_a_fifo_and_waits_for_its_reader(tmp_path):
    path = tmp_path / "fifo"
    async with opened(Printer(to=f"fifo:{path}")) as printer:
        sending = asyncio.create_task(send(printer, pattern(300_000)))  # noqa: TID251
        await asyncio.sleep(0.02)
        assert not sending.done()
        fd = os.open(path, os.O_RDONLY)
        got = b""
        while len(got) < 300_000:
            got += await asyncio.to_thread(os.read, fd, 65536)
        assert await sending == 300_000
        os.close(fd)
    assert got == pattern(300_000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are Unix's")
async def test_a_file_is_no_fifo(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DeviceError, match="is no FIFO"):
        await Printer(to=f"fifo:{tmp_path / 'file'}").open()
    with pytest.raises(DeviceError, match="No such file"):
        await Printer(to=f"fifo:{tmp_path / 'no' / 'folder'}").open()
    with pytest.raises(ValueError, match="needs a path"):
        Printer(to="fifo:")


# -- status ------------------------------------------------------------------------------------------------------------


async def test_without_paper_it_says_so_and_takes_nothing_until_there_is_some():
    async with opened(Printer()) as printer:
        assert answered(printer, PORT_STATUS) == bytes([READY]) == b"\x18"
        printer.status = OUT_OF_PAPER
        assert answered(printer, PORT_STATUS) == b"\x30"
        waiting = printer.submit(write(OUT, b"later"))
        assert isinstance(waiting, asyncio.Future)
        assert printer.paper == b""
        printer.status = READY
        assert (await waiting).status == Status.OK
        assert printer.paper == b"later"


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (READY, "12 12 12 12"),
        (OUT_OF_PAPER, "1a 32 12 72"),
        (Port.NOT_ERROR, "1a 16 12 12"),
    ],
)
async def test_a_thermal_printers_status_is_told_at_any_time(status, told):
    async with opened(Printer()) as printer:
        printer.status = status
        for which in b"\x01\x02\x03\x04":
            printer.submit(write(OUT, DLE_EOT + bytes([which])))
        completion = printer.submit(read(IN, 64))
        assert isinstance(completion, Completion)
        assert bytes(completion.data).hex(" ") == told


async def test_a_status_request_may_be_anywhere_and_in_two_transfers():
    async with opened(Printer()) as printer:
        for piece in (b"text" + DLE_EOT + b"\x01more" + DLE_EOT[:1], DLE_EOT[1:], b"\x04"):
            printer.submit(write(OUT, piece))
        completion = printer.submit(read(IN, 64))
        assert isinstance(completion, Completion)
        assert bytes(completion.data) == b"\x12\x12"
        assert isinstance(printer.submit(read(IN, 64)), asyncio.Future), "each is answered once"


async def test_other_languages_know_no_such_requests():
    async with opened(Printer(language="PCL")) as printer:
        printer.submit(write(OUT, DLE_EOT + b"\x01"))
        assert isinstance(printer.submit(read(IN, 64)), asyncio.Future)
        assert printer.paper == DLE_EOT + b"\x01"


@pytest.mark.parametrize("request_type", [0x21, 0x23])
async def test_a_soft_reset_empties_the_buffers_and_ends_halts(request_type):
    async with opened(Printer()) as printer:
        printer.submit(write(OUT, DLE_EOT + b"\x01"))
        printer.halt(OUT)
        printer.halt(IN)
        assert answered(printer, Setup(request_type, 2, 0, 0, 0)) == b""
        assert isinstance(printer.submit(read(IN, 64)), asyncio.Future)
        assert isinstance(printer.submit(write(OUT, b"x")), Completion)
        assert refused(printer, Setup(request_type, 2, 0, 1, 0))
