"""Layouts: a desktop writes what we type, character by character; what cannot be typed is named."""

import string

import pytest

from tests import xkb
from tests.evdev import events
from usbferry.devices.hid.layouts import ALTGR, DE, FR, LAYOUTS, SHIFT, UK, US, Stroke, Untypable


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
