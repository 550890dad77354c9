"""Brightness and the like: what a host asks of them, and what it sees of them."""

import struct

import pytest

from tests.devices.host import ask, opened
from tests.devices.video_host import luma_of, number_in
from usbferry.devices.camera import Camera
from usbferry.devices.clock import VirtualClock
from usbferry.devices.video.looks import Looks
from usbferry.devices.video.test_card import card
from usbferry.devices.video.uvc import Coding, Error, Request
from usbferry.usb.setup import Setup
from usbferry.usb.types import Status

UNIT = 0x0300  # wIndex: unit 3 of interface 0
SIZE = (160, 120)
SELECTORS = {control.numbers[0].name: control.selector for control in Looks.controls}
EDGES = {"brightness": (-100, 100, 0), "contrast": (0, 200, 100), "hue": (-180, 180, 0), "saturation": (0, 200, 100)}


def get(device, request: int, name: str, index: int = UNIT) -> int | None:
    answer = ask(device, Setup(0xA1, request, SELECTORS[name] << 8, index, 2))
    return int.from_bytes(bytes(answer.data), "little", signed=True) if answer.status == Status.OK else None


def put(device, name: str, value: int) -> int:
    return ask(device, Setup(0x21, Request.SET_CUR, SELECTORS[name] << 8, UNIT, 2), struct.pack("<h", value)).status


def shown(coding: Coding, **values: int) -> bytes:
    looks = Looks()
    looks.values.update(values)
    return card(5, *SIZE, coding, looks)


@pytest.mark.parametrize("name", EDGES)
async def test_each_has_its_range_is_set_and_forgotten_by_a_reset(name):
    least, most, neutral = EDGES[name]
    async with opened(Camera(clock=VirtualClock())) as device:
        found = [get(device, r, name) for r in (Request.GET_MIN, Request.GET_MAX, Request.GET_DEF, Request.GET_CUR)]
        assert found == [least, most, neutral, neutral]
        assert [get(device, r, name) for r in (Request.GET_RES, Request.GET_LEN, Request.GET_INFO)] == [1, 2, 3]
        assert put(device, name, least) == Status.OK
        assert (get(device, Request.GET_CUR, name), device.looks.values[name]) == (least, least)
        assert put(device, name, most + 1) == Status.STALL
        assert ask(device, Setup(0xA1, Request.GET_CUR, 0x0200, 0, 1)).data == bytes((Error.OUT_OF_RANGE,))
        assert get(device, Request.GET_CUR, name) == least
        await device.reset()
        assert get(device, Request.GET_CUR, name) == neutral


async def test_what_is_no_control_is_refused():
    async with opened(Camera(clock=VirtualClock())) as device:
        for value, index in ((0x0400, UNIT), (SELECTORS["hue"] << 8 | 1, UNIT), (SELECTORS["hue"] << 8, 0x0400)):
            assert ask(device, Setup(0xA1, Request.GET_CUR, value, index, 2)).status == Status.STALL
            assert ask(device, Setup(0xA1, Request.GET_CUR, 0x0200, 0, 1)).data == bytes((Error.INVALID_CONTROL,))


async def test_pictures_that_are_sent_as_they_are_have_no_controls():
    async with opened(Camera(source="listen://127.0.0.1:0", sizes="160x120", clock=VirtualClock())) as device:
        assert get(device, Request.GET_CUR, "brightness") is None
        units = [extra[2] for extra in device.info.configurations[0].interfaces[0].extra]
        assert units == [0x01, 0x02, 0x03]


@pytest.mark.parametrize("coding", Coding)
def test_what_is_seen(coding):
    """The picture's upper left is black, its lower right bit is white; the bars begin with white, then yellow."""

    def luma(**values: int) -> tuple[int, int]:
        at = luma_of(shown(coding, **values), SIZE, coding)
        return at(2, 2), at(157, 60)

    def about(found: tuple[int, int], wanted: tuple[int, int]) -> bool:
        return all(abs(a - b) <= 3 for a, b in zip(found, wanted, strict=True))

    assert shown(coding) == card(5, *SIZE, coding)
    assert about(luma(), (0, 255))
    assert about(luma(brightness=-100), (0, 0))
    assert about(luma(brightness=20), (51, 255))
    assert about(luma(contrast=50), (64, 192))
    assert about(luma(contrast=0), (128, 128))
    assert number_in(shown(coding, contrast=60, hue=90, saturation=0), SIZE, coding) == 5


def test_colours_fade_and_turn():
    yellow = 80 * SIZE[0] * 2 + 2 * 32  # the second bar, its Y; Cb and Cr follow
    plain, grey, turned = (
        shown(Coding.YUY2, **values)[yellow : yellow + 4] for values in ({}, {"saturation": 0}, {"hue": 180})
    )
    assert (grey[1], grey[3]) == (128, 128)
    assert [a + b for a, b in zip((plain[1], plain[3]), (turned[1], turned[3]), strict=True)] == [256, 256]
