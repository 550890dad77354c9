"""Keys by name, as HID usages of the keyboard page: HID Usage Tables §10. Names are those of an American keyboard.

Media keys are usages of the consumer page (§15), written with their page before them: mute is 0x0c00e2.
"""

from __future__ import annotations

import difflib
from typing import Final

MODIFIERS: Final = range(0xE0, 0xE8)  # in a keyboard's report they are bits, all other keys are numbers

_NAMED: Final = {
    0x28: "enter esc backspace tab space minus equal leftbrace rightbrace backslash hash semicolon apostrophe grave "
    "comma dot slash capslock",
    0x46: "print scrolllock pause insert home pageup delete end pagedown right left down up numlock",
    0x54: "kp/ kp* kp- kp+ kpenter kp1 kp2 kp3 kp4 kp5 kp6 kp7 kp8 kp9 kp0 kp. 102nd menu power",
    0xE0: "leftctrl leftshift leftalt leftmeta rightctrl rightshift rightalt rightmeta",
}
_ALIASES: Final = {
    "return": "enter",
    "escape": "esc",
    "del": "delete",
    "ins": "insert",
    "pgup": "pageup",
    "pgdn": "pagedown",
    "ctrl": "leftctrl",
    "shift": "leftshift",
    "alt": "leftalt",
    "meta": "leftmeta",
    "win": "leftmeta",
    "cmd": "leftmeta",
    "altgr": "rightalt",
    "-": "minus",
    "=": "equal",
    "[": "leftbrace",
    "]": "rightbrace",
    "\\": "backslash",
    ";": "semicolon",
    "'": "apostrophe",
    "`": "grave",
    ",": "comma",
    ".": "dot",
    "/": "slash",
}


MEDIA_KEYS: Final = {
    name: 0x0C0000 | usage
    for name, usage in {
        "brightnessup": 0x6F, "brightnessdown": 0x70, "play": 0xB0, "record": 0xB2, "fastforward": 0xB3, "rewind": 0xB4,
        "next": 0xB5, "previous": 0xB6, "stop": 0xB7, "eject": 0xB8, "playpause": 0xCD, "mute": 0xE2, "volumeup": 0xE9,
        "volumedown": 0xEA, "mail": 0x18A, "calculator": 0x192, "search": 0x221, "homepage": 0x223, "back": 0x224,
        "forward": 0x225, "refresh": 0x227, "bookmarks": 0x22A,
    }.items()
}  # fmt: skip
LAST_MEDIA: Final = 0x0C029C  # the last that Linux and Windows know by number


def _table() -> dict[str, int]:
    table = {letter: 0x04 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    table |= {digit: 0x1E + i for i, digit in enumerate("1234567890")}
    table |= {f"f{i + 1}": (0x3A if i < 12 else 0x68 - 12) + i for i in range(24)}
    for first, names in _NAMED.items():
        table |= {name: first + i for i, name in enumerate(names.split())}
    return table | {alias: table[name] for alias, name in _ALIASES.items()}


KEYS: Final = _table()


def is_media(key: int) -> bool:
    """Whether a usage is one of the consumer page."""
    return key >> 16 == 0x0C


def usage_of(key: str | int, *, media: bool = False) -> int:
    """The usage of a key, given by its name or as it is; with `media`, also that of a media key.

    Raises ValueError that suggests names.
    """
    if isinstance(key, int):
        if not (0x04 <= key <= 0xDD or key in MODIFIERS or (media and 0x0C0001 <= key <= LAST_MEDIA)):
            raise ValueError(f"{key:#x} is no key: usages go from 0x04 to 0xdd, and from 0xe0 to 0xe7")
        return key
    name = key.lower()
    usage = KEYS.get(name) or (MEDIA_KEYS.get(name) if media else None)
    if usage is None:
        if name in MEDIA_KEYS:
            raise ValueError(f"{key!r} is a media key; this keyboard has none, they come with the option media")
        close = difflib.get_close_matches(name, [*KEYS, *(MEDIA_KEYS if media else ())])
        raise ValueError(f"there is no key {key!r}" + (f"; perhaps {' or '.join(close)}" if close else ""))
    return usage
