"""CTAP2: the commands that make credentials and use them, in CBOR. Needs `cbor2`, the extra `fido`.

    command (1)  its parameters, a map with numbers as keys
    status (1)   what is asked for, in another such map, when the status is OK

A command waits for a person's touch by `touched`, which raises Refused when that does not come. Source: Client to
Authenticator Protocol 2.0, where the sections named here are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any, Final, TypeVar
from uuid import UUID

from .ctaphid import MAX_MESSAGE
from .keys import Algorithm, Credential, Keys, site_of

# Of no vendor: whoever finds it in an attestation knows that the credential is worth nothing outside of tests.
AAGUID: Final = UUID("75736266-6572-7279-2d74-6573742d6b65")  # "usbferry-test-ke"
_COUNTED: Final = Struct(">32sBI")  # the site, flags, the counter: WebAuthn §6.1
_HASH: Final = 32
_RESET_SECONDS: Final = 10.0  # after it was plugged in, §5.6
_NEXT_SECONDS: Final = 30.0  # between an assertion and the next, §5.3
_USER_ID_BYTES: Final = 64
T = TypeVar("T")


class Command(IntEnum):
    """§6.1"""

    MAKE_CREDENTIAL = 0x01
    GET_ASSERTION = 0x02
    GET_INFO = 0x04
    RESET = 0x07
    GET_NEXT_ASSERTION = 0x08


class Code(IntEnum):
    """§6.3"""

    OK = 0x00
    INVALID_COMMAND = 0x01
    INVALID_PARAMETER = 0x02
    CBOR_UNEXPECTED_TYPE = 0x11
    INVALID_CBOR = 0x12
    MISSING_PARAMETER = 0x14
    CREDENTIAL_EXCLUDED = 0x19
    UNSUPPORTED_ALGORITHM = 0x26
    OPERATION_DENIED = 0x27
    KEY_STORE_FULL = 0x28
    UNSUPPORTED_OPTION = 0x2B
    INVALID_OPTION = 0x2C
    KEEPALIVE_CANCEL = 0x2D
    NO_CREDENTIALS = 0x2E
    USER_ACTION_TIMEOUT = 0x2F
    NOT_ALLOWED = 0x30
    PIN_AUTH_INVALID = 0x33
    PIN_NOT_SET = 0x35


class Flag(IntFlag):
    """Of what is signed, WebAuthn §6.1."""

    PRESENT = 0x01
    VERIFIED = 0x04
    HAS_CREDENTIAL = 0x40


class Refused(Exception):
    """A command that ends with an error."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


class Authenticator:
    """A security key behind its packets. `verifies` has it know who touches it; `now` gives seconds."""

    def __init__(
        self, keys: Keys, touched: Callable[[], Awaitable[None]], now: Callable[[], float], verifies: bool = False
    ) -> None:
        self._keys, self._touched, self._now, self._verifies = keys, touched, now, verifies
        self.powered_up()

    def powered_up(self) -> None:
        """It was plugged in this moment."""
        self._since = self._now()
        self._next: tuple[float, bytes, bytes, Flag, list[Credential]] | None = None

    async def answered(self, payload: bytes) -> bytes:
        """What it says to a message of CTAPHID_CBOR, which is not empty."""
        import cbor2

        try:
            reply = await self._done(payload[0], payload[1:])
        except Refused as refused:
            return bytes((refused.code,))
        return bytes((Code.OK,)) + (b"" if reply is None else cbor2.dumps(reply, canonical=True))

    async def _done(self, command: int, raw: bytes) -> Mapping[int, object] | None:
        pending, self._next = self._next, None
        if command == Command.MAKE_CREDENTIAL:
            return await self._make(_parsed(raw))
        if command == Command.GET_ASSERTION:
            return await self._assert(_parsed(raw))
        if command == Command.GET_NEXT_ASSERTION:
            if pending is None or self._now() - pending[0] > _NEXT_SECONDS:
                raise Refused(Code.NOT_ALLOWED)
            return self._signed(*pending[1:])
        if command == Command.GET_INFO:
            return self._info()
        if command != Command.RESET:
            raise Refused(Code.INVALID_COMMAND)
        await self._reset()
        return None

    def _info(self) -> Mapping[int, object]:
        """§5.4"""
        options = {"rk": True, "up": True, "plat": False, **({"uv": True} if self._verifies else {})}
        return {1: ["FIDO_2_0", "U2F_V2"], 3: AAGUID.bytes, 4: options, 5: MAX_MESSAGE}

    async def _reset(self) -> None:
        if self._now() - self._since > _RESET_SECONDS:
            raise Refused(Code.NOT_ALLOWED)
        await self._touched()
        self._keys.forget()

    # -- making one, §5.1 ---------------------------------------------------------------------------------------------

    async def _make(self, asked: Mapping[object, object]) -> Mapping[int, object]:
        challenge = _hash(asked, 1)
        site = site_of(_text(_need(asked, 2, dict), "id"))
        user = _user(_need(asked, 3, dict))
        algorithm = _algorithm(_need(asked, 4, list))
        excluded = [self._keys.find(site, name) for name in _names(asked, 5)]
        options = self._options(asked, 7)
        if "up" in options and not options["up"]:
            raise Refused(Code.INVALID_OPTION)
        await self._without_pin(asked, 8)
        await self._touched()
        if any(excluded):
            raise Refused(Code.CREDENTIAL_EXCLUDED)
        made = self._keys.make(site, algorithm)
        if options.get("rk") and not self._keys.keep(site, Credential(made.id, made.key, user)):
            raise Refused(Code.KEY_STORE_FULL)
        return self._attested(made, site, challenge, self._verified(options))

    def _attested(self, made: Credential, site: bytes, challenge: bytes, flags: Flag) -> Mapping[int, object]:
        """Packed attestation by the credential's own key, WebAuthn §8.2."""
        import cbor2

        counted = _COUNTED.pack(site, flags | Flag.PRESENT | Flag.HAS_CREDENTIAL, self._keys.count())
        name = len(made.id).to_bytes(2, "big") + made.id
        data = counted + AAGUID.bytes + name + cbor2.dumps(made.key.cose(), canonical=True)
        signature = made.key.sign(data + challenge)
        return {1: "packed", 2: data, 3: {"alg": made.key.algorithm.value, "sig": signature}}

    # -- using one, §5.2 ----------------------------------------------------------------------------------------------

    async def _assert(self, asked: Mapping[object, object]) -> Mapping[int, object]:
        site, challenge = site_of(_need(asked, 1, str)), _hash(asked, 2)
        names = _names(asked, 3)
        options = self._options(asked, 5)
        if "rk" in options:
            raise Refused(Code.UNSUPPORTED_OPTION)
        await self._without_pin(asked, 6)
        if names:
            found = [one for one in (self._keys.find(site, name) for name in names) if one is not None][:1]
        else:
            found = self._keys.resident(site)
        flags = self._verified(options)
        if options.get("up", True):
            await self._touched()
            flags |= Flag.PRESENT
        if not found:
            raise Refused(Code.NO_CREDENTIALS)
        answer = self._signed(site, challenge, flags, found)
        return {**answer, 5: len(found)} if len(found) > 1 else answer

    def _signed(self, site: bytes, challenge: bytes, flags: Flag, found: list[Credential]) -> Mapping[int, object]:
        """By the first of them; the others are for GetNextAssertion. A user's names are for who was verified."""
        first, *others = found
        self._next = (self._now(), site, challenge, flags, others) if others else None
        data = _COUNTED.pack(site, flags, self._keys.count())
        answer: dict[int, object] = {1: {"id": first.id, "type": "public-key"}, 2: data}
        answer[3] = first.key.sign(data + challenge)
        if first.user is not None:
            answer[4] = first.user if flags & Flag.VERIFIED else {"id": first.user["id"]}
        return answer

    # -- what both ask for --------------------------------------------------------------------------------------------

    def _options(self, asked: Mapping[object, object], place: int) -> dict[str, bool]:
        """Those that it knows: it takes no notice of others, but does not claim to verify when it cannot."""
        options = {}
        for name, value in (_get(asked, place, dict) or {}).items():
            if not isinstance(name, str) or not isinstance(value, bool):
                raise Refused(Code.CBOR_UNEXPECTED_TYPE)
            options[name] = value
        if options.get("uv") and not self._verifies:
            raise Refused(Code.UNSUPPORTED_OPTION)
        return options

    def _verified(self, options: Mapping[str, bool]) -> Flag:
        return Flag.VERIFIED if options.get("uv") else Flag(0)

    async def _without_pin(self, asked: Mapping[object, object], place: int) -> None:
        """It has no PIN. An empty one asks which of several keys a person means: that one says by a touch."""
        given = _get(asked, place, bytes)
        if given is None:
            return
        if not given:
            await self._touched()
            raise Refused(Code.PIN_NOT_SET)
        raise Refused(Code.PIN_AUTH_INVALID)


# -- parameters --------------------------------------------------------------------------------------------------------


def _parsed(raw: bytes) -> Mapping[object, object]:
    import cbor2

    try:
        found = cbor2.loads(raw)
    except (cbor2.CBORDecodeError, RecursionError):
        raise Refused(Code.INVALID_CBOR) from None
    if not isinstance(found, dict):
        raise Refused(Code.CBOR_UNEXPECTED_TYPE)
    return found


def _get(where: Mapping[Any, object], key: object, kind: type[T]) -> T | None:
    found = where.get(key)
    if found is not None and not isinstance(found, kind):
        raise Refused(Code.CBOR_UNEXPECTED_TYPE)
    return found


def _need(where: Mapping[Any, object], key: object, kind: type[T]) -> T:
    found = _get(where, key, kind)
    if found is None:
        raise Refused(Code.MISSING_PARAMETER)
    return found


def _text(where: Mapping[Any, object], key: str) -> str:
    return _need(where, key, str)


def _hash(asked: Mapping[object, object], place: int) -> bytes:
    found = _need(asked, place, bytes)
    if len(found) != _HASH:
        raise Refused(Code.INVALID_PARAMETER)
    return found


def _user(given: Mapping[Any, object]) -> Mapping[str, object]:
    """What is kept of a user: WebAuthn §5.4.3."""
    name = _need(given, "id", bytes)
    if not 1 <= len(name) <= _USER_ID_BYTES:
        raise Refused(Code.INVALID_PARAMETER)
    words = {key: _get(given, key, str) for key in ("name", "displayName")}
    return {"id": name, **{key: word for key, word in words.items() if word is not None}}


def _algorithm(wanted: list[object]) -> Algorithm:
    """The first that it can."""
    offered = [(_need(one, "alg", int), _text(one, "type")) for one in map(_map, wanted)]
    for number, kind in offered:
        if kind == "public-key" and number in tuple(Algorithm):
            return Algorithm(number)
    raise Refused(Code.UNSUPPORTED_ALGORITHM)


def _names(asked: Mapping[object, object], place: int) -> list[bytes]:
    """The ids of a list of credentials, those of other types left out."""
    given = [_map(one) for one in _get(asked, place, list) or ()]
    pairs = [(_need(one, "id", bytes), _text(one, "type")) for one in given]
    return [name for name, kind in pairs if kind == "public-key"]


def _map(given: object) -> Mapping[Any, object]:
    if not isinstance(given, Mapping):
        raise Refused(Code.CBOR_UNEXPECTED_TYPE)
    return given
