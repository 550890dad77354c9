"""What a host does with payloads and pictures: it puts them together again, and reads the number of a test card."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from PIL import Image, ImageColor

from usbferry.devices.video import test_card
from usbferry.devices.video.uvc import Coding
from usbferry.usb.transfer import Completion

FRAME_ID, END, TIME, END_OF_HEADER = 0x01, 0x02, 0x04, 0x80  # bmHeaderInfo


class Driver:
    """What uvcvideo does with payloads: pictures by frame id, whole when the end is marked."""

    def __init__(self) -> None:
        self.pictures: list[bytes] = []
        self.ids: list[int] = []
        self.times: list[int] = []
        self._now = b""

    def payload(self, raw: bytes) -> None:
        length, info = raw[0], raw[1]
        assert length == 6
        assert info & ~(FRAME_ID | END) == TIME | END_OF_HEADER
        self._now += raw[length:]
        if info & END:
            self.pictures.append(self._now)
            self.ids.append(info & FRAME_ID)
            self.times.append(int.from_bytes(raw[2:6], "little"))
            self._now = b""

    def transfer(self, answer: Completion) -> None:
        raw, at = bytes(answer.data), 0
        for packet in answer.packets:
            if packet.actual:
                self.payload(raw[at : at + packet.actual])
            at += packet.actual
        assert at == len(raw)


def luma_of(card: bytes, size: tuple[int, int], coding: Coding) -> Callable[[int, int], int]:
    """Brightness of a pixel."""
    if coding is Coding.YUY2:
        return lambda x, y: card[2 * (y * size[0] + x)]
    with Image.open(BytesIO(card)) as picture:
        assert picture.size == size
        picture.draft("YCbCr", None)
        bright = picture.getchannel(0)
    return lambda x, y: bright.getpixel((x, y))


def number_in(card: bytes, size: tuple[int, int], coding: Coding) -> int:
    luma = luma_of(card, size, coding)
    places = [[test_card.place_of(row, column, size[0]) for column in range(8)] for row in range(4)]
    return test_card.number_of([[luma(*place) for place in row] for row in places])


BARS = ("white", "yellow", "cyan", "green", "magenta", "red", "blue", "black")


def picture_of(card: bytes, size: tuple[int, int], coding: Coding) -> Image.Image:
    """What somebody sees, in red, green and blue."""
    if coding is Coding.MJPEG:
        with Image.open(BytesIO(card)) as picture:
            return picture.convert("RGB")
    half = size[0] // 2, size[1]  # Y is there for each pixel, Cb and Cr for two
    planes = [Image.frombytes("L", *plane) for plane in ((size, card[::2]), (half, card[1::4]), (half, card[3::4]))]
    return Image.merge("YCbCr", [plane.resize(size) for plane in planes]).convert("RGB")


def bars_in(card: bytes, size: tuple[int, int], coding: Coding) -> tuple[str, ...]:
    """The names of the colours of a card's bars, from left to right."""
    known = {ImageColor.getrgb(name if name != "green" else "lime"): name for name in BARS}
    picture = picture_of(card, size, coding)
    seen = (picture.getpixel(test_card.place_of(4, column, size[0])) for column in range(len(BARS)))
    return tuple(known.get(tuple(_full(value) for value in colour), str(colour)) for colour in seen)


def _full(value: int) -> int:
    """All or nothing, as each of the colours has it; what is far from both stays as it is."""
    return 0 if value < 8 else 255 if value > 247 else value
