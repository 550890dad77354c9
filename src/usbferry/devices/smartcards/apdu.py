"""Commands to cards and their answers, ISO/IEC 7816-4: the same for a smart card and for U2F.

    CLA INS P1 P2                        1   nothing in, nothing out
    CLA INS P1 P2              Le        2   nothing in, up to Le bytes out
    CLA INS P1 P2  Lc data               3   in alone
    CLA INS P1 P2  Lc data     Le        4   both

Short lengths are one byte, of which 0 as Le is 256; extended ones a zero and two bytes, of which 0 is 65536.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

HEADER_BYTES: Final = 4
_SHORT, _EXTENDED = 256, 65536  # bytes of the longest answers


class Word(IntEnum):
    """SW1 and SW2, how a command ended: ISO/IEC 7816-4 tables 5 and 6."""

    OK = 0x9000
    END_OF_FILE = 0x6282
    WRONG = 0x63C0  # plus the tries that are left
    WRONG_LENGTH = 0x6700
    SECURITY_STATUS = 0x6982  # not satisfied
    BLOCKED = 0x6983
    CONDITIONS = 0x6985  # of use not satisfied
    NO_CURRENT_FILE = 0x6986
    WRONG_DATA = 0x6A80
    NOT_FOUND = 0x6A82
    WRONG_P1_P2 = 0x6A86
    NO_REFERENCE = 0x6A88
    OUT_OF_FILE = 0x6B00
    WRONG_INS = 0x6D00
    WRONG_CLA = 0x6E00
    FAILED = 0x6F00


class Refused(Exception):
    """A command that ends with nothing but a status word."""

    def __init__(self, word: int) -> None:
        super().__init__(f"{word:04X}")
        self.word = word


@dataclass(frozen=True, slots=True)
class Command:
    """A command APDU. `expected` is the most that its answer may have, None where it says nothing of an answer."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    expected: int | None = None
    is_extended: bool = False

    @property
    def p1_p2(self) -> int:
        return self.p1 << 8 | self.p2


def parse(raw: bytes) -> Command:
    """A command from its bytes. Raises Refused: lengths that are wrong have a status word."""
    if len(raw) < HEADER_BYTES:
        raise Refused(Word.WRONG_LENGTH)
    cla, ins, p1, p2 = raw[:HEADER_BYTES]
    is_extended = len(raw) > HEADER_BYTES + 1 and not raw[HEADER_BYTES]
    data, expected = _extended(raw[HEADER_BYTES:]) if is_extended else _short(raw[HEADER_BYTES:])
    return Command(cla, ins, p1, p2, data, expected, is_extended)


def _short(body: bytes) -> tuple[bytes, int | None]:
    if len(body) < 2:
        return b"", (body[0] or _SHORT) if body else None
    data, rest = body[1 : 1 + body[0]], body[1 + body[0] :]
    if len(data) < body[0] or len(rest) > 1:
        raise Refused(Word.WRONG_LENGTH)
    return data, (rest[0] or _SHORT) if rest else None


def _extended(body: bytes) -> tuple[bytes, int | None]:
    """Hosts of U2F send Lc and Le, though there is no data: the Lc is zero then."""
    length = int.from_bytes(body[1:3], "big")
    if len(body) == 3:
        return b"", length or _EXTENDED
    data, rest = body[3 : 3 + length], body[3 + length :]
    if len(body) < 3 or len(data) < length or len(rest) not in (0, 2):
        raise Refused(Word.WRONG_LENGTH)
    return data, (int.from_bytes(rest, "big") or _EXTENDED) if rest else None


def answer(data: bytes = b"", word: int = Word.OK) -> bytes:
    """A response APDU."""
    return data + word.to_bytes(2, "big")
