"""U2F, CTAP1: registrations and authentications as APDUs, for hosts that know no CTAP2.

Its credentials are those of CTAP2 with ES256; a site is the hash that the host sends. Without a person's touch it says
so at once, and hosts ask again. Source: FIDO U2F Raw Message Formats 1.2.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from typing import Final

from ..smartcards.apdu import Command, Refused, Word, answer, parse
from .keys import Algorithm, Keys

_HASH: Final = 32  # bytes of a challenge, and of a site
_COUNTED: Final = Struct(">BI")  # presence, counter: §5.4
_PRESENT: Final = 0x01
VERSION: Final = b"U2F_V2"


class Ins(IntEnum):
    """§3.1"""

    REGISTER = 0x01
    AUTHENTICATE = 0x02
    VERSION = 0x03


class Control(IntEnum):
    """P1 of AUTHENTICATE, §5.1."""

    ENFORCE = 0x03
    CHECK_ONLY = 0x07
    DO_NOT_ENFORCE = 0x08


def answered(raw: bytes, keys: Keys, is_touched: Callable[[], bool]) -> bytes:
    """The response APDU. `is_touched` says whether a person is there now, and uses that up."""
    try:
        command = parse(raw)
        if command.cla:
            raise Refused(Word.WRONG_CLA)
        return answer(_done(command, keys, is_touched))
    except Refused as refused:
        return answer(word=refused.word)


def _done(command: Command, keys: Keys, is_touched: Callable[[], bool]) -> bytes:
    if command.ins == Ins.REGISTER:
        return _registered(command, keys, is_touched)
    if command.ins == Ins.AUTHENTICATE:
        return _authenticated(command, keys, is_touched)
    if command.ins != Ins.VERSION:
        raise Refused(Word.WRONG_INS)
    if command.data:
        raise Refused(Word.WRONG_LENGTH)
    return VERSION


def _registered(command: Command, keys: Keys, is_touched: Callable[[], bool]) -> bytes:
    """§4"""
    if len(command.data) != 2 * _HASH:
        raise Refused(Word.WRONG_LENGTH)
    if not is_touched():
        raise Refused(Word.CONDITIONS)
    challenge, site = command.data[:_HASH], command.data[_HASH:]
    made = keys.make(site, Algorithm.ES256)
    key, certificate = keys.attestation()
    signature = key.sign(b"\0" + site + challenge + made.id + made.key.point())
    return b"\x05" + made.key.point() + bytes((len(made.id),)) + made.id + certificate + signature


def _authenticated(command: Command, keys: Keys, is_touched: Callable[[], bool]) -> bytes:
    """§5"""
    challenge, site, rest = command.data[:_HASH], command.data[_HASH : 2 * _HASH], command.data[2 * _HASH :]
    if not rest or len(rest) != 1 + rest[0]:
        raise Refused(Word.WRONG_LENGTH)
    if command.p1 not in tuple(Control):
        raise Refused(Word.WRONG_P1_P2)
    found = keys.find(site, rest[1:])
    if found is None or found.key.algorithm is not Algorithm.ES256:
        raise Refused(Word.WRONG_DATA)
    if command.p1 == Control.CHECK_ONLY:
        raise Refused(Word.CONDITIONS)  # which means: yes, it is ours
    is_there = command.p1 == Control.ENFORCE and is_touched()
    if command.p1 == Control.ENFORCE and not is_there:
        raise Refused(Word.CONDITIONS)
    counted = _COUNTED.pack(_PRESENT * is_there, keys.count())
    return counted + found.key.sign(site + counted + challenge)
