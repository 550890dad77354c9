"""What a desktop writes for key events: libxkbcommon, the library that Wayland desktops use, called by ctypes.

An independent reading of what we type: its layouts are xkeyboard-config's, its dead keys those of X's Compose file.
"""

import ctypes
import ctypes.util
from collections.abc import Iterable

_NAMES = {"uk": "gb"}  # ours -> theirs
_COMPOSING, _COMPOSED, _CANCELLED = 1, 2, 3  # enum xkb_compose_status


class _RuleNames(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in ("rules", "model", "layout", "variant", "options")]


def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libxkbcommon.so.0")
    except OSError:
        return None
    for name in ("context", "keymap", "state", "compose_table", "compose_state"):
        for made in (f"xkb_{name}_new", f"xkb_{name}_new_from_names", f"xkb_{name}_new_from_locale"):
            if hasattr(library, made):
                getattr(library, made).restype = ctypes.c_void_p
    return library


_XKB = _library()


class Desktop:
    """One keyboard at one desktop."""

    def __init__(self, layout: str) -> None:
        assert _XKB is not None
        context = ctypes.c_void_p(_XKB.xkb_context_new(0))
        names = _RuleNames(b"evdev", b"pc105", _NAMES.get(layout, layout).encode(), b"", b"")
        keymap = ctypes.c_void_p(_XKB.xkb_keymap_new_from_names(context, ctypes.byref(names), 0))
        table = ctypes.c_void_p(_XKB.xkb_compose_table_new_from_locale(context, b"en_US.UTF-8", 0))
        if not keymap or not table:
            raise LookupError("xkeyboard-config or the Compose file is not installed")
        self._state = ctypes.c_void_p(_XKB.xkb_state_new(keymap))
        self._compose = ctypes.c_void_p(_XKB.xkb_compose_state_new(table, 0))

    def write(self, events: Iterable[tuple[int, int]]) -> str:
        """The text of (evdev code, 1 pressed or 0 released) events."""
        assert _XKB is not None
        text = ""
        for code, value in events:
            if value:
                symbol = _XKB.xkb_state_key_get_one_sym(self._state, code + 8)
                if _XKB.xkb_compose_state_feed(self._compose, symbol):  # 0 for modifiers, which leave dead keys alone
                    text += self._text(symbol, _XKB.xkb_compose_state_get_status(self._compose))
            _XKB.xkb_state_update_key(self._state, code + 8, value)
        return text

    def _text(self, symbol: int, status: int) -> str:
        assert _XKB is not None
        buffer = ctypes.create_string_buffer(64)
        if status == _COMPOSED:
            _XKB.xkb_compose_state_get_utf8(self._compose, buffer, 64)
        elif status not in (_COMPOSING, _CANCELLED):
            _XKB.xkb_keysym_to_utf8(symbol, buffer, 64)
        return buffer.value.decode().replace("\r", "\n")


def missing() -> str | None:
    """Why there is no such desktop here."""
    if _XKB is None:
        return "libxkbcommon is not installed"
    try:
        Desktop("us")
    except LookupError as error:
        return str(error)
    return None
