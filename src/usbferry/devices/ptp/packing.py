"""The data sets of PTP as bytes, and back: numbers are little endian, texts have their length before them.

Source: Media Transfer Protocol 1.1 §3.2.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from .codes import Kind, Type

HEADER: Final = Struct("<IHHI")  # of a container: length, kind, code, transaction. Appendix H.2.1
MOST_PARAMETERS: Final = 5
UNKNOWN: Final = 0xFFFF_FFFF  # a length that does not fit
_MOST_CHARACTERS: Final = 254  # of a text, and the zero behind it
_SIZES: Final = {Type.U16: 2, Type.U32: 4, Type.U64: 8, Type.U128: 16}
_FIXED_INFO: Final = Struct("<IHHIHIIIIIIIHII")  # the numbers at the start of ObjectInfo, §5.3.1


class BadData(ValueError):
    """Bytes that are no such data set."""


def number(kind: Type, value: int) -> bytes:
    return value.to_bytes(_SIZES[kind], "little")


def text(words: str) -> bytes:
    """Characters are those of UTF-16, at most 254; what it cannot say is a question mark."""
    raw = words.encode("utf-16-le", "replace")[: 2 * _MOST_CHARACTERS]
    return bytes((len(raw) // 2 + 1,)) + raw + b"\0\0" if raw else b"\0"


def array(kind: Type, values: Iterable[int]) -> bytes:
    items = [number(kind, value) for value in values]
    return number(Type.U32, len(items)) + b"".join(items)


def moment(seconds: float) -> bytes:
    """A date and time as text, in local time: §3.2.5."""
    return text(time.strftime("%Y%m%dT%H%M%S", time.localtime(seconds)))


def value(kind: Type, content: int | str) -> bytes:
    """A property's value."""
    return text(content) if isinstance(content, str) else number(kind, content)


def container(kind: Kind, code: int, transaction: int, *parameters: int) -> bytes:
    """A whole one that has parameters alone."""
    body = b"".join(number(Type.U32, one) for one in parameters)
    return header(kind, code, transaction, len(body)) + body


def header(kind: Kind, code: int, transaction: int, size: int) -> bytes:
    """The start of one with `size` bytes behind it."""
    return HEADER.pack(min(HEADER.size + size, UNKNOWN), kind, code, transaction)


class Sent(NamedTuple):
    """What is used of an ObjectInfo that a host sends: §5.3.1."""

    format: int
    size: int
    is_folder: bool
    name: str


def sent(raw: bytes, folder: int) -> Sent:
    """`folder` is the format of folders. Raises BadData."""
    if len(raw) < _FIXED_INFO.size:
        raise BadData("it is too short")
    fixed = _FIXED_INFO.unpack_from(raw)
    return Sent(fixed[1], fixed[3], fixed[1] == folder, read_text(raw[_FIXED_INFO.size :]))


def info(
    storage: int, format: int, protection: int, size: int, parent: int, is_folder: bool, name: str, modified: float
) -> bytes:
    """An ObjectInfo. Sizes that do not fit are said to be the largest."""
    association = 1 if is_folder else 0
    fixed = (storage, format, protection, min(size, UNKNOWN), 0, 0, 0, 0, 0, 0, 0, parent, association, 0, 0)
    when = moment(modified)
    return _FIXED_INFO.pack(*fixed) + text(name) + when + when + text("")


def read_text(raw: bytes) -> str:
    """The text at the start of some bytes. Raises BadData."""
    if not raw or len(raw) < 1 + 2 * raw[0]:
        raise BadData("a text is cut off")
    if not raw[0]:
        return ""
    try:
        words = raw[1 : 1 + 2 * raw[0]].decode("utf-16-le")
    except UnicodeDecodeError:
        raise BadData("a text is no UTF-16") from None
    return words.removesuffix("\0")
