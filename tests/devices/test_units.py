"""The numbers of a camera's units: what was set is read, and what cannot be changes nothing."""

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.devices.video.lens import MANUAL, Lens
from usbferry.devices.video.looks import Looks
from usbferry.devices.video.units import Control, Refused, Unit
from usbferry.devices.video.uvc import Error, Request

UNITS = (Lens, Looks)
CONTROLS = [(kind, control) for kind in UNITS for control in kind.controls]


@pytest.mark.parametrize(("kind", "bits"), [(Lens, 0x020A2A), (Looks, 0x00000F)])
def test_the_bits_are_those_of_its_controls(kind, bits):
    """UVC tables 3-6 and 3-8."""
    assert kind.bits == bits


@st.composite
def asked(draw) -> tuple[Unit, Control, bytes]:
    """A unit, which leaves its numbers to the host or not, and what one of them is to become."""
    kind, control = draw(st.sampled_from(CONTROLS))
    unit = kind()
    for name, value in (("exposure_mode", MANUAL), ("focus_auto", 0)):
        if name in unit.values and draw(st.booleans()):
            unit.values[name] = value
    fitting = st.tuples(*(st.integers(number.least, number.most) for number in control.numbers))
    return unit, control, draw(fitting.map(lambda values: control.layout.pack(*values)) | st.binary(max_size=10))


@given(asked())
def test_whatever_is_set_is_read_or_refused_and_nothing_else_changes(what):
    unit, control, data = what
    told: dict[str, int] = {}
    unit._changed = told.__setitem__
    before, error = dict(unit.values), Error.NONE
    try:
        unit.set(control.selector, data)
    except Refused as refused:
        error = refused.error
    assert error in (Error.NONE, Error.OUT_OF_RANGE, Error.WRONG_STATE)
    assert (unit.get(Request.GET_CUR, control.selector) == data) or error
    assert unit.values == before | told
    assert not (told and error)


@pytest.mark.parametrize(("kind", "control"), CONTROLS)
def test_the_usual_value_can_be_set_and_so_can_the_ends(kind, control):
    for which in ("least", "most", "usual"):
        unit = kind()
        if control.free_if:
            unit.values[control.free_if[0]] = control.free_if[1]
        unit.set(control.selector, control.layout.pack(*(getattr(number, which) for number in control.numbers)))
        assert [unit.values[number.name] for number in control.numbers] == [
            getattr(number, which) for number in control.numbers
        ]


def test_a_value_of_the_wrong_length_is_refused_in_one_line():
    with pytest.raises(Refused, match="zoom has 2 bytes"):
        Lens().set(0x0B, pack("<I", 200))


def test_units_know_what_they_have():
    assert Lens().has(0x0B)
    assert not Looks().has(0x0B)
    assert not Unit().has(0x02)
    assert Lens().is_neutral
