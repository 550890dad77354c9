"""Cards: one of your own, from a function; or one with files, ISO/IEC 7816-4, as a small one for tests has them.

    Answering(lambda command: bytes.fromhex("9000"))
    Files({"2F00": b"...", "A000000001": {"0101": b"text"}}, pin="1234")

A name of four hexadecimal digits is a file's id, one of ten to thirty-two the name of an application, whose files are
below it. What a host writes stays in memory.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Union

from . import ccid
from .apdu import Command, Refused, Word, answer, parse

Tree = Mapping[str, Union[bytes, "Tree"]]

_MASTER: Final = bytes.fromhex("3f00")
_TRIES: Final = 3
_PIN_REFERENCES: Final = (0x01, 0x81)  # global, and of the application: there is one
_NOWHERE: Final = 0x0C  # P2 of SELECT: no data wanted
_BY_ID, _CHILD_FOLDER, _CHILD_FILE, _PARENT, _BY_NAME, _FROM_MASTER, _FROM_HERE = 0, 1, 2, 3, 4, 8, 9  # its P1
_MAX_FILE: Final = 0x8000  # bytes: offsets have fifteen bits
_DEMO: Final[Tree] = {
    "2F00": bytes.fromhex("61154f09f075736266657272795008") + b"usbferry",  # EF.DIR: the application and its label
    "F07573626665727279": {"0101": b"Hello from a virtual smart card.\n"},
}


class Card:
    """What is put into a reader. A subclass answers commands."""

    # T=1 alone, with nothing out of the ordinary; then the historical bytes, free text of up to 15.
    atr: bytes = ccid.checked(b"\x3b\x88\x01" + b"usbferry")

    def reset(self) -> None:
        """It was switched on, or again."""

    def apdu(self, command: bytes) -> bytes | Awaitable[bytes]:
        """The response APDU to a command APDU."""
        raise NotImplementedError


class Answering(Card):
    """A card that is a function, or a coroutine function, of the command APDU; with an ATR of its own if it has one."""

    def __init__(self, apdu: Callable[[bytes], bytes | Awaitable[bytes]], atr: bytes = Card.atr) -> None:
        self._apdu, self.atr = apdu, atr

    def apdu(self, command: bytes) -> bytes | Awaitable[bytes]:
        return self._apdu(command)


class File:
    """A file, or a folder with `files`; an application is a folder with a name."""

    def __init__(self, name: bytes, parent: File | None, content: bytes | Tree) -> None:
        self.name, self.parent = name, parent
        self.content = bytearray() if isinstance(content, Mapping) else bytearray(content)
        self.files: list[File] | None = None
        if isinstance(content, Mapping):
            self.files = [File(_name(key), self, inner) for key, inner in content.items()]
        elif len(content) > _MAX_FILE:
            raise ValueError(f"a card's file has at most {_MAX_FILE} bytes, not {len(content)}")
        elif len(name) != 2:
            raise ValueError(f"{name.hex().upper()}: a file's id has four hexadecimal digits")

    @property
    def is_folder(self) -> bool:
        return self.files is not None

    def every(self) -> Iterator[File]:
        """Itself and all below it."""
        yield self
        for inner in self.files or ():
            yield from inner.every()

    def described(self) -> bytes:
        """Its control parameters, FCP: ISO/IEC 7816-4 §5.3.3."""
        kind = b"\x82\x01\x38" if self.is_folder else b"\x82\x01\x01\x80\x02" + len(self.content).to_bytes(2, "big")
        tag = b"\x83" if len(self.name) == 2 else b"\x84"
        body = kind + tag + bytes((len(self.name),)) + self.name
        return b"\x62" + bytes((len(body),)) + body


class Files(Card):
    """SELECT, READ BINARY, UPDATE BINARY, GET CHALLENGE, VERIFY and CHANGE REFERENCE DATA; writing needs the PIN.

    Raises ValueError for names and sizes that no card has.
    """

    def __init__(self, tree: Tree = _DEMO, pin: str = "1234") -> None:
        if not 4 <= len(pin) <= 16 or not pin.isascii():
            raise ValueError("a PIN has 4 to 16 characters")
        self._master = File(_MASTER, None, tree)
        self._pin = pin.encode()
        self._tries = _TRIES
        self.reset()

    @classmethod
    def of(cls, folder: Path, pin: str = "1234") -> Files:
        """The files of a folder, and of folders in it. Raises ValueError, and OSError where it cannot be read."""
        return cls(_tree(folder), pin)

    def reset(self) -> None:
        self._here, self._file = self._master, self._master
        self._is_verified = False

    def apdu(self, command: bytes) -> bytes:
        try:
            parsed = parse(command)
            if parsed.cla:
                raise Refused(Word.WRONG_CLA)
            does = self._COMMANDS.get(parsed.ins)
            if does is None:
                raise Refused(Word.WRONG_INS)
            data, word = does(self, parsed)
        except Refused as refused:
            return answer(word=refused.word)
        return answer(data, word)

    # -- files --------------------------------------------------------------------------------------------------------

    def _select(self, command: Command) -> tuple[bytes, int]:
        """§7.1.1"""
        found = self._found(command.p1, command.data)
        if found is None:
            raise Refused(Word.NOT_FOUND)
        if command.p2 & ~0x0F or command.p2 & 0x03:
            raise Refused(Word.WRONG_P1_P2)  # the first or only occurrence is all there is
        self._file = found
        self._here = found if found.is_folder else found.parent or self._master
        if command.p2 & _NOWHERE == _NOWHERE:
            return b"", Word.OK
        return found.described()[: command.expected or 256], Word.OK

    def _found(self, how: int, name: bytes) -> File | None:
        if how == _BY_NAME:
            named = (one for one in self._master.every() if one.is_folder and len(one.name) > 2)
            return next((one for one in named if name and one.name.startswith(name)), None)
        if how == _PARENT:
            return self._here.parent if not name else None
        if how in (_FROM_MASTER, _FROM_HERE):
            return self._by_path(self._master if how == _FROM_MASTER else self._here, name)
        if how not in (_BY_ID, _CHILD_FOLDER, _CHILD_FILE):
            raise Refused(Word.WRONG_P1_P2)
        if how == _BY_ID and name in (b"", _MASTER):
            return self._master
        places = [self._here, *([self._here.parent] if how == _BY_ID and self._here.parent else [])]
        kinds = {_CHILD_FOLDER: (True,), _CHILD_FILE: (False,)}.get(how, (True, False))
        inside = (one for place in places for one in place.files or ())
        return next((one for one in inside if one.name == name and one.is_folder in kinds), None)

    def _by_path(self, start: File, path: bytes) -> File | None:
        place: File | None = start
        for at in range(0, len(path), 2):
            inside = place.files or () if place is not None else ()
            place = next((one for one in inside if one.name == path[at : at + 2]), None)
        return place

    def _read(self, command: Command) -> tuple[bytes, int]:
        """§7.2.3. Fewer bytes than were asked for come with a warning."""
        file, offset = self._addressed(command)
        if command.data:
            raise Refused(Word.WRONG_LENGTH)
        wanted = command.expected
        if wanted is None:
            raise Refused(Word.WRONG_LENGTH)
        piece = bytes(file.content[offset : offset + wanted])
        is_all = wanted in (256, 65536) or len(piece) == wanted  # Le of zero: whatever there is
        return piece, Word.OK if is_all else Word.END_OF_FILE

    def _update(self, command: Command) -> tuple[bytes, int]:
        """§7.2.5. A file does not grow."""
        file, offset = self._addressed(command)
        if not command.data:
            raise Refused(Word.WRONG_LENGTH)
        if not self._is_verified:
            raise Refused(Word.SECURITY_STATUS)
        if offset + len(command.data) > len(file.content):
            raise Refused(Word.OUT_OF_FILE)
        file.content[offset : offset + len(command.data)] = command.data
        return b"", Word.OK

    def _addressed(self, command: Command) -> tuple[File, int]:
        """The selected file, or by the five bits of a short id the one here whose id ends in them: then it is."""
        offset = command.p1_p2
        if command.p1 & 0x80:
            if command.p1 & 0x60:
                raise Refused(Word.WRONG_P1_P2)
            inside = (one for one in self._here.files or () if not one.is_folder)
            found = next((one for one in inside if one.name[1] & 0x1F == command.p1 & 0x1F), None)
            if found is None:
                raise Refused(Word.NOT_FOUND)
            self._file, offset = found, command.p2
        if self._file.is_folder:
            raise Refused(Word.NO_CURRENT_FILE)
        if offset > len(self._file.content):
            raise Refused(Word.OUT_OF_FILE)
        return self._file, offset

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _challenge(self, command: Command) -> tuple[bytes, int]:
        """§7.5.3"""
        if command.p1_p2 or command.data or command.expected is None:
            raise Refused(Word.WRONG_P1_P2 if command.p1_p2 else Word.WRONG_LENGTH)
        return os.urandom(min(command.expected, 256)), Word.OK

    def _verify(self, command: Command) -> tuple[bytes, int]:
        """§7.5.6. Without a PIN it asks how many tries there are."""
        self._check_reference(command)
        if not command.data and self._is_verified:
            return b"", Word.OK
        if not self._tries:
            raise Refused(Word.BLOCKED)
        if command.data:
            self._check_pin(command.data)
            return b"", Word.OK
        return b"", Word.WRONG | self._tries

    def _change(self, command: Command) -> tuple[bytes, int]:
        """§7.5.7: the old one and the new one, which is as long."""
        self._check_reference(command)
        if not self._tries:
            raise Refused(Word.BLOCKED)
        if len(command.data) != 2 * len(self._pin):
            raise Refused(Word.WRONG_LENGTH)
        self._check_pin(command.data[: len(self._pin)])
        self._pin = command.data[len(self._pin) :]
        return b"", Word.OK

    def _check_reference(self, command: Command) -> None:
        if command.p1 or command.p2 not in _PIN_REFERENCES:
            raise Refused(Word.NO_REFERENCE if not command.p1 else Word.WRONG_P1_P2)

    def _check_pin(self, given: bytes) -> None:
        self._is_verified = hmac.compare_digest(given, self._pin)
        self._tries = _TRIES if self._is_verified else self._tries - 1
        if not self._is_verified:
            raise Refused(Word.WRONG | self._tries)

    _COMMANDS: Final[Mapping[int, Callable[[Files, Command], tuple[bytes, int]]]] = {
        0x20: _verify,
        0x24: _change,
        0x84: _challenge,
        0xA4: _select,
        0xB0: _read,
        0xD6: _update,
    }


def _name(text: str) -> bytes:
    try:
        name = bytes.fromhex(text)
    except ValueError:
        name = b""
    if len(name) != 2 and not 5 <= len(name) <= 16:
        raise ValueError(f"{text!r} is no name on a card: four hexadecimal digits, or ten to thirty-two for folders")
    return name


def _tree(folder: Path) -> Tree:
    return {
        one.name: _tree(one) if one.is_dir() else _content(one)
        for one in sorted(folder.iterdir())
        if not one.name.startswith(".")
    }


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE + 1)  # one more is refused
