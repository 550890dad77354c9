"""Keys as Linux names them: what a typed text should look like in /dev/input, and the text of what was read there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from usbferry.devices.hid.layouts import ALTGR, LAYOUTS, SHIFT, Stroke

# HID usage -> evdev code, for the keys that layouts use: drivers/hid/hid-input.c, hid_keyboard[].
EVDEV = {
    **{0x04 + i: code for i, code in enumerate(b"\x1e\x30\x2e\x20\x12\x21\x22\x23\x17\x24\x25\x26\x32")},
    **{0x11 + i: code for i, code in enumerate(b"\x31\x18\x19\x10\x13\x1f\x14\x16\x2f\x11\x2d\x15\x2c")},
    **{0x1E + i: code for i, code in enumerate(range(2, 12))},
    **{0x28: 28, 0x29: 1, 0x2A: 14, 0x2B: 15, 0x2C: 57, 0x2D: 12, 0x2E: 13, 0x2F: 26, 0x30: 27, 0x31: 43, 0x32: 43},
    **{0x33: 39, 0x34: 40, 0x35: 41, 0x36: 51, 0x37: 52, 0x38: 53, 0x4C: 111, 0x64: 86},
    **{SHIFT: 42, ALTGR: 100},  # KEY_LEFTSHIFT, KEY_RIGHTALT, include/uapi/linux/input-event-codes.h
}


def events(strokes: Iterable[Stroke]) -> Iterator[tuple[int, int]]:
    """(code, 1 pressed or 0 released) of each key."""
    for stroke in strokes:
        keys = [EVDEV[key] for key in (*stroke.held, stroke.key)]
        yield from ((key, 1) for key in keys)
        yield from ((key, 0) for key in reversed(keys))


def presses(pairs: Iterable[tuple[int, int]]) -> list[tuple[frozenset[int], int]]:
    """(modifiers down, code) of each key that was pressed, modifiers apart."""
    held: set[int] = set()
    found = []
    for code, value in pairs:
        if code in (42, 100):
            held.add(code) if value else held.discard(code)
        elif value:
            found.append((frozenset(held), code))
    return found


def text(layout: str, pairs: Iterable[tuple[int, int]]) -> str:
    """What key events write in a layout, by its table; dead keys need the key after them."""
    characters = {
        tuple(presses(events(LAYOUTS[layout].strokes(character)))): character
        for character in LAYOUTS[layout].characters()
    }
    written, waiting = "", ()
    for press in presses(pairs):
        waiting = (*waiting, press)
        if waiting in characters:
            written += characters[waiting]
            waiting = ()
        elif len(waiting) > 1:
            raise AssertionError(f"no character of {layout}: {waiting} after {written!r}")
    return written
