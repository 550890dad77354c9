"""Layouts: a desktop writes what we type, character by character; what cannot be typed is named."""

import string

import pytest

from tests import xkb
from usbferry.devices.layouts import ALTGR, DE, FR, LAYOUTS, SHIFT, UK, US, Stroke, Untypable

# HID usage -> evdev code, for the keys that layouts use: drivers/hid/hid-input.c, hid_keyboard[].
EVDEV = {
    **{0x04 + i: code for i, code in enumerate(b"\x1e\x30\x2e\x20\x12\x21\x22\x23\x17\x24\x25\x26\x32")},
    **{0x11 + i: code for i, code in enumerate(b"\x31\x18\x19\x10\x13\x1f\x14\x16\x2f\x11\x2d\x15\x2c")},
    **{0x1E + i: code for i, code in enumerate(range(2, 12))},
    **{0x28: 28, 0x29: 1, 0x2A: 14, 0x2B: 15, 0x2C: 57, 0x2D: 12, 0x2E: 13, 0x2F: 26, 0x30: 27, 0x31: 43, 0x32: 43},
    **{0x33: 39, 0x34: 40, 0x35: 41, 0x36: 51, 0x37: 52, 0x38: 53, 0x4C: 111, 0x64: 86},
    **{SHIFT: xkb.SHIFT, ALTGR: xkb.ALTGR},
}


def events(strokes):
    for stroke in strokes:
        keys = [EVDEV[key] for key in (*stroke.held, stroke.key)]
        yield from ((key, 1) for key in keys)
        yield from ((key, 0) for key in reversed(keys))


@pytest.mark.parametrize(("name", "count"), [("us", 100), ("uk", 103), ("de", 194), ("fr", 158)])
def test_a_desktop_writes_every_character(name, count):
    if reason := xkb.missing():
        pytest.skip(reason)
    layout = LAYOUTS[name]
    characters = list(layout.characters())
    assert len(characters) == count
    desktop = xkb.Desktop(name)
    written = {c: desktop.write(events(layout.strokes(c))) for c in characters}
    assert {c: got for c, got in written.items() if c != got} == {}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_types_printable_ascii(layout):
    text = string.ascii_letters + string.digits + string.punctuation + " \t\n"
    assert len(layout.strokes(text)) >= len(text)


def test_the_same_character_on_other_keys():
    assert [layout.strokes("@") for layout in (US, UK, DE, FR)] == [
        [Stroke(0x1F, (SHIFT,))],
        [Stroke(0x34, (SHIFT,))],
        [Stroke(0x14, (ALTGR,))],
        [Stroke(0x27, (ALTGR,))],
    ]
    assert [layout.strokes("z") for layout in (US, DE, FR)] == [[Stroke(0x1D)], [Stroke(0x1C)], [Stroke(0x1A)]]


def test_dead_keys_come_before_their_letter():
    circumflex, space = Stroke(0x35), Stroke(0x2C)
    assert DE.strokes("ê") == [circumflex, Stroke(0x08)]
    assert DE.strokes("Ê") == [circumflex, Stroke(0x08, (SHIFT,))]
    assert DE.strokes("^") == [circumflex, space]
    assert FR.strokes("ë") == [Stroke(0x2F, (SHIFT,)), Stroke(0x08)]


def test_a_letter_of_its_own_needs_no_dead_key():
    assert FR.strokes("é") == [Stroke(0x1F)]
    assert FR.strokes("^") == [Stroke(0x26, (ALTGR,))]


def test_accents_that_combine_are_typed_as_one_letter():
    assert DE.strokes("e\u0302") == DE.strokes("ê")


def test_line_ends_are_one_enter():
    assert US.strokes("a\r\nb\rc\n") == US.strokes("a\nb\nc\n")


def test_all_that_cannot_be_typed_is_named_once():
    with pytest.raises(Untypable) as caught:
        US.strokes("naïve café, naïf €")
    assert caught.value.characters == "ïé€"
    assert str(caught.value) == (
        "the keyboard layout 'us' cannot type 'ï' (U+00EF LATIN SMALL LETTER I WITH DIAERESIS), "
        "'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE), '€' (U+20AC EURO SIGN)"
    )
    with pytest.raises(Untypable, match=r"U\+0001 unnamed"):
        DE.strokes("\x01")


def test_country_codes():
    assert {layout.name: layout.country for layout in LAYOUTS.values()} == {"us": 33, "uk": 32, "de": 9, "fr": 8}
