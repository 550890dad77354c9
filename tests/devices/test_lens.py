"""A lens: what a host asks of exposure, focus, zoom, pan and tilt, and what it sees of them."""

from struct import pack, unpack

import pytest

from tests.devices.host import ask, opened
from tests.devices.video_host import luma_of, picture_of
from usbferry.devices.camera import Camera
from usbferry.devices.clock import VirtualClock
from usbferry.devices.video.lens import Lens
from usbferry.devices.video.test_card import card
from usbferry.devices.video.uvc import Coding, Error, Request
from usbferry.usb.setup import Setup
from usbferry.usb.types import Status

UNIT = 0x0100  # wIndex: unit 1 of interface 0
SIZE = (640, 480)
MODE, EXPOSURE, FOCUS, FOCUS_AUTO, ZOOM, PAN_TILT = 0x02, 0x04, 0x06, 0x08, 0x0B, 0x0D
LAYOUTS = {MODE: "<B", EXPOSURE: "<I", FOCUS: "<H", FOCUS_AUTO: "<B", ZOOM: "<H", PAN_TILT: "<ii"}


def get(device, request: int, selector: int) -> tuple[int, ...] | None:
    answer = ask(device, Setup(0xA1, request, selector << 8, UNIT, 8))
    return unpack(LAYOUTS[selector], bytes(answer.data)) if answer.status == Status.OK else None


def put(device, selector: int, *values: int) -> Error:
    """What the camera says of it."""
    data = pack(LAYOUTS[selector], *values)
    status = ask(device, Setup(0x21, Request.SET_CUR, selector << 8, UNIT, len(data)), data).status
    error = Error(ask(device, Setup(0xA1, Request.GET_CUR, 0x0200, 0, 1)).data[0])
    assert (status == Status.OK) == (error == Error.NONE)
    return error


def info(device, selector: int) -> int:
    return ask(device, Setup(0xA1, Request.GET_INFO, selector << 8, UNIT, 1)).data[0]


def camera() -> Camera:
    return Camera(clock=VirtualClock())


@pytest.mark.parametrize(
    ("selector", "least", "most", "step", "usual"),
    [
        (EXPOSURE, (1,), (10000,), (1,), (333,)),
        (FOCUS, (100,), (10000,), (1,), (1000,)),
        (ZOOM, (100,), (400,), (1,), (100,)),
        (PAN_TILT, (-36000, -36000), (36000, 36000), (3600, 3600), (0, 0)),
    ],
)
async def test_each_has_its_range(selector, least, most, step, usual):
    async with opened(camera()) as device:
        asked = (Request.GET_MIN, Request.GET_MAX, Request.GET_RES, Request.GET_DEF, Request.GET_CUR)
        assert [get(device, one, selector) for one in asked] == [least, most, step, usual, usual]
        length = ask(device, Setup(0xA1, Request.GET_LEN, selector << 8, UNIT, 2)).data
        assert int.from_bytes(length, "little") == len(pack(LAYOUTS[selector], *usual))


async def test_modes_and_switches_have_no_range():
    """§4.2.2.1.2: GET_RES has a bit for each mode that there is."""
    async with opened(camera()) as device:
        for selector, choices, usual in ((MODE, 0x09, 0x08), (FOCUS_AUTO, 1, 1)):
            asked = (Request.GET_RES, Request.GET_DEF, Request.GET_CUR, Request.GET_MIN, Request.GET_MAX)
            assert [get(device, one, selector) for one in asked] == [(choices,), (usual,), (usual,), None, None]
            assert ask(device, Setup(0xA1, Request.GET_CUR, 0x0200, 0, 1)).data[0] == Error.INVALID_REQUEST
        assert put(device, MODE, 2) == Error.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("ruler", "automatic", "free", "ruled", "value"), [(MODE, 8, 1, EXPOSURE, 100), (FOCUS_AUTO, 1, 0, FOCUS, 500)]
)
async def test_what_is_automatic_is_not_set(ruler, automatic, free, ruled, value):
    """§4.2.2.1.4 and §4.2.2.1.6: "Wrong state"; GET_INFO says so, too."""
    async with opened(camera()) as device:
        assert (put(device, ruled, value), info(device, ruled)) == (Error.WRONG_STATE, 7)
        assert put(device, ruler, free) == Error.NONE
        assert (put(device, ruled, value), info(device, ruled)) == (Error.NONE, 3)
        assert get(device, Request.GET_CUR, ruled) == (value,)
        assert put(device, ruler, automatic) == Error.NONE
        assert put(device, ruled, value) == Error.WRONG_STATE
        await device.reset()
        assert (device.lens.values, device.lens.is_neutral) == (Lens().values, True)


async def test_pan_and_tilt_are_set_together_or_not_at_all():
    async with opened(camera()) as device:
        told = []
        device.changed = lambda: told.append((device.lens.values["pan"], device.lens.values["tilt"]))
        assert put(device, PAN_TILT, 3600, -7200) == Error.NONE
        assert put(device, PAN_TILT, 0, 36001) == Error.OUT_OF_RANGE
        assert get(device, Request.GET_CUR, PAN_TILT) == (3600, -7200)
        assert told == [(3600, 0), (3600, -7200)]
        short = Setup(0x21, Request.SET_CUR, PAN_TILT << 8, UNIT, 4)
        assert ask(device, short, bytes(4)).status == Status.STALL


# -- what is seen -----------------------------------------------------------------------------------------------------


def shown(coding: Coding = Coding.YUY2, number: int = 5, **values: int) -> bytes:
    lens = Lens()
    lens.values.update(values)
    return card(number, *SIZE, coding, None, lens)


def squares(picture: bytes) -> list[list[int]]:
    """The brightness of each, in rows."""
    luma = luma_of(picture, SIZE, Coding.YUY2)
    return [[luma(x, y) for x in range(8, SIZE[0], 16)] for y in range(8, SIZE[1], 16)]


@pytest.mark.parametrize("coding", Coding)
def test_what_is_neutral_or_automatic_changes_nothing(coding):
    plain = card(5, *SIZE, coding)
    assert shown(coding) == shown(coding, exposure=10) == shown(coding, focus=100) == plain


def test_the_card_is_as_bright_as_it_is_exposed_long():
    white, yellow = squares(shown())[4][0], squares(shown())[4][5]
    half = squares(shown(exposure_mode=1, exposure=166))
    assert (half[4][0], half[4][5]) == (white * 166 // 333, yellow * 166 // 333)
    assert squares(shown(exposure_mode=1, exposure=1000))[4][5] == 255


def test_colours_are_as_dark():
    """Red, at the middle of its bar, by what its decoder makes of it."""
    pixels = picture_of(shown(exposure_mode=1, exposure=111), SIZE, Coding.YUY2)
    red, green, blue = pixels.getpixel((440, 300))
    assert abs(red - 255 // 3) < 3
    assert max(green, blue) < 3
    burnt = picture_of(shown(exposure_mode=1, exposure=10000), SIZE, Coding.YUY2)
    assert burnt.getpixel((440, 300))[0] == 255


def test_pan_and_tilt_move_the_view():
    """To the right what is seen goes left, upwards it goes down; beside the card there is nothing."""
    plain = squares(shown())
    right = squares(shown(pan=2 * 3600))
    assert [row[:-2] for row in right] == [row[2:] for row in plain]
    assert {value for row in right for value in row[-2:]} == {0}
    up = squares(shown(tilt=3 * 3600))
    assert up[3:] == plain[:-3]
    assert {value for row in up[:3] for value in row} == {0}
    assert squares(shown(pan=-3600, tilt=-3600))[0][1:] == plain[1][:-1]


def test_zoom_shows_the_middle_larger():
    """The card has 40 squares across, of which the 20 in the middle are seen, and 30 down."""
    plain, near = squares(shown()), squares(shown(zoom=200))
    assert [row[::2] for row in near] == [row[1::2] for row in near]
    assert [row[::2] for row in near] == [plain[(at + 15) // 2][10:30] for at in range(30)]
    left_of_the_middle = squares(shown(zoom=400, pan=-10 * 3600))
    assert left_of_the_middle[15][0] == plain[15][5]


def test_out_of_focus_edges_are_soft():
    plain, soft = squares(shown(number=0)), squares(shown(number=0, focus_auto=0, focus=4000))
    assert (plain[20][4], plain[20][5]) == (255, 226), "the edge of the first bar"
    assert 226 < soft[20][5] < soft[20][4] < 255
    assert soft[20][2] == 255, "the middle of a bar is as it was"
    assert soft[0][0] == 0, "all bits are 0"
    assert shown(focus_auto=0, focus=1100) == shown(), "near enough"


async def test_pictures_that_are_sent_as_they_are_have_a_lens_without_controls():
    device = Camera(source="listen://127.0.0.1:0", sizes="160x120", clock=VirtualClock())
    lens = device.info.configurations[0].interfaces[0].extra[1]
    assert (lens[2], lens[-3:]) == (0x02, bytes(3))
    async with opened(device):
        assert get(device, Request.GET_CUR, ZOOM) is None
        assert put(device, ZOOM, 200) == Error.INVALID_CONTROL
