"""What is said of an object: its properties, each for itself, or many of many objects.

Source: Media Transfer Protocol 1.1 appendix B; the lists are E.2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from . import packing
from .codes import STORAGE_ID, Property, Type
from .packing import number
from .store import Entry

_TYPES: Final = {
    Property.STORAGE: Type.U32,
    Property.FORMAT: Type.U16,
    Property.PROTECTION: Type.U16,
    Property.SIZE: Type.U64,
    Property.FILE_NAME: Type.TEXT,
    Property.MODIFIED: Type.TEXT,
    Property.PARENT: Type.U32,
    Property.UNIQUE_ID: Type.U128,
    Property.NAME: Type.TEXT,
}


def described(code: Property, can_be_set: bool) -> bytes:
    """Its code and type, whether it can be set, an empty default, no group and no form: §5.3.2.4."""
    kind = _TYPES[code]
    empty = packing.value(kind, "" if kind is Type.TEXT else 0)
    head = number(Type.U16, code) + number(Type.U16, kind) + bytes((can_be_set,))
    return head + empty + number(Type.U32, 0) + b"\0"


def value(entry: Entry, code: Property, is_writable: bool) -> bytes:
    """One of an object."""
    if code is Property.MODIFIED:
        return packing.moment(entry.modified)
    known: Mapping[Property, int | str] = {
        Property.STORAGE: STORAGE_ID,
        Property.FORMAT: entry.format,
        Property.PROTECTION: 0 if is_writable else 1,
        Property.SIZE: entry.size,
        Property.FILE_NAME: entry.name,
        Property.PARENT: entry.parent,
        Property.UNIQUE_ID: entry.handle,
        Property.NAME: entry.name,
    }
    return packing.value(_TYPES[code], known[code])


def listed(entries: Iterable[Entry], codes: tuple[Property, ...], is_writable: bool) -> bytes:
    """These of each of these objects, with handle, code and type before each."""
    said = [
        number(Type.U32, one.handle)
        + number(Type.U16, code)
        + number(Type.U16, _TYPES[code])
        + value(one, code, is_writable)
        for one in entries
        for code in codes
    ]
    return number(Type.U32, len(said)) + b"".join(said)
