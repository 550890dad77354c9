"""How often a payload is copied on its way to libusb and back: once at most."""

from __future__ import annotations

import asyncio
from ctypes import sizeof

import pytest

from usbferry.backends.libusb.flight import _END, _STATUS, _STRUCT, Flight
from usbferry.backends.libusb.library import library
from usbferry.usb.setup import get_descriptor
from usbferry.usb.transfer import IsoPacket, Transfer
from usbferry.usb.types import Status


@pytest.fixture
async def future() -> asyncio.Future:
    return asyncio.get_running_loop().create_future()


async def test_bytes_of_ours_go_as_they_are(future):
    data = bytes(1000)
    assert Flight(Transfer(0x02, 1000, data), future)._fill() is data
    packets = [IsoPacket(at, 500) for at in (0, 500)]
    assert Flight(Transfer(0x03, 1000, data, packets=packets), future)._fill() is data


@pytest.mark.parametrize("packets", [None, [IsoPacket(0, 3)]])
async def test_what_was_lent_is_copied(future, packets):
    lent = bytearray(b"-abc-")
    filled = Flight(Transfer(0x02, 3, memoryview(lent)[1:4], packets=packets), future)._fill()
    lent[:] = b"vwxyz"
    assert bytes(filled) == b"abc"
    of_bytes = Transfer(0x02, 3, memoryview(b"-abc-")[1:4], packets=packets)
    assert bytes(Flight(of_bytes, future)._fill()) == b"abc"


@pytest.mark.parametrize(
    ("transfer", "start"),
    [(Transfer(0x81, 512), 0), (Transfer(0x80, 18, b"", get_descriptor(1, length=18).pack()), 8)],
)
async def test_what_came_is_a_view_of_where_libusb_put_it(future, transfer, start):
    flight = Flight(transfer, future)
    flight._buffer = flight._fill()
    flight._buffer[start : start + 5] = b"bytes"
    flight._struct = bytearray(_STRUCT.pack(0, 0, 0, 0, 0, 0, 4096, 5, 0, 0, 0, 0))
    completion = flight.end()
    assert (completion.status, bytes(completion.data), completion.actual) == (Status.OK, b"bytes", 5)
    assert completion.data.obj is flight._buffer


def test_the_struct_is_laid_out_as_libusb_has_it():
    declared = library().libusb_transfer
    assert declared.status.offset == _STATUS
    assert _STATUS + _END.size == declared.actual_length.offset + declared.actual_length.size
    assert _STRUCT.size == declared.iso_packet_desc.offset
    packed = _STRUCT.pack(0, 1, 0x82, 3, 4, 5, 6, 7, 0, 0, 0, 8)
    filled = declared.from_buffer_copy(packed.ljust(sizeof(declared), b"\0"))
    names = ("flags", "endpoint", "type", "timeout", "status", "length", "actual_length", "num_iso_packets")
    assert [getattr(filled, name) for name in names] == [1, 0x82, 3, 4, 5, 6, 7, 8]
