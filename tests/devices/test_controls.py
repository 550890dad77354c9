"""Controls, as both versions of USB Audio ask for them. Layouts: UAC 1.0 §5.2.1, UAC 2.0 §5.2.1 to §5.2.3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.devices.chapter9 import Stall
from usbferry.devices.sound.controls import Control, Range
from usbferry.devices.sound.uac import Request

VOLUME = Range(-60 * 256, 0, 256)
RATES = (Range(44100, 44100, 0), Range(48000, 48000, 0))


def volume(**more) -> Control:
    return Control(0, 2, (VOLUME,), **more)


def rate() -> Control:
    return Control(48000, 4, RATES, size_1=3)


def test_version_2_asks_for_the_current_value_and_the_ranges():
    assert volume().get(Request.CUR) == b"\0\0"
    assert volume().get(Request.RANGE) == bytes.fromhex("0100 00c4 0000 0001")
    assert rate().get(Request.CUR) == (48000).to_bytes(4, "little")
    assert rate().get(Request.RANGE) == b"\2\0" + b"".join(
        n.to_bytes(4, "little") for n in (44100, 44100, 0, 48000, 48000, 0)
    )


def test_version_1_asks_for_one_value_at_a_time():
    asked = (Request.GET_CUR, Request.GET_MIN, Request.GET_MAX, Request.GET_RES)
    assert [volume().get(one).hex() for one in asked] == ["0000", "00c4", "0000", "0001"]
    assert [rate().get(one).hex() for one in asked] == ["80bb00", "44ac00", "80bb00", "010000"]


def test_a_switch_has_no_range():
    mute = Control(0, 1)
    mute.set(b"\1")
    assert mute.get(Request.CUR) == mute.get(Request.GET_CUR) == b"\1"
    for one in (Request.RANGE, Request.GET_MIN, Request.GET_RES):
        with pytest.raises(Stall):
            mute.get(one)


@pytest.mark.parametrize(
    ("asked", "got"), [(0, 0), (-256, -256), (-300, -256), (-390, -512), (200, 0), (-0x8000, -15360), (-15300, -15360)]
)
def test_a_value_that_does_not_fit_becomes_the_nearest_that_does(asked, got):
    control = volume()
    control.set(asked.to_bytes(2, "little", signed=True))
    assert control.value == got


@given(value=st.integers(-0x8000, 0x7FFF))
def test_whatever_is_set_is_in_range_and_on_a_step(value):
    control = volume()
    control.set(value.to_bytes(2, "little", signed=True))
    assert VOLUME.least <= control.value <= VOLUME.most
    assert control.value % 256 == 0


@pytest.mark.parametrize(("asked", "got"), [(44100, 44100), (48000, 48000), (46000, 44100), (46100, 48000), (1, 44100)])
def test_a_rate_that_is_not_there_becomes_the_nearest(asked, got):
    for size in (3, 4):
        control = rate()
        control.set(asked.to_bytes(size, "little"))
        assert control.value == got


def test_data_of_another_length_is_refused():
    for data in (b"", b"\1", bytes(3)):
        with pytest.raises(Stall):
            volume().set(data)
    with pytest.raises(Stall):
        Control(1, 1, fixed=True).set(b"\0")


def test_a_change_is_told_once_and_can_be_taken_back():
    told = []
    control = volume(changed=lambda: told.append(control.value))
    for value in (-256, -256, -512):
        control.set(value.to_bytes(2, "little", signed=True))
    control.restore()
    control.restore()
    assert told == [-256, -512, 0]
