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
from typing import Any, Final, NamedTuple
from uuid import UUID

from .codes import Code, Refused, get, need
from .ctaphid import MAX_MESSAGE
from .keys import Algorithm, Credential, Keys, site_of
from .pin import PROTOCOL, Pin, Salts

# Of no vendor: whoever finds it in an attestation knows that the credential is worth nothing outside of tests.
AAGUID: Final = UUID("75736266-6572-7279-2d74-6573742d6b65")  # "usbferry-test-ke"
_COUNTED: Final = Struct(">32sBI")  # the site, flags, the counter: WebAuthn §6.1
_HASH: Final = 32
_RESET_SECONDS: Final = 10.0  # after it was plugged in, §5.6
_NEXT_SECONDS: Final = 30.0  # between an assertion and the next, §5.3
_USER_ID_BYTES: Final = 64
_HMAC_SECRET: Final = "hmac-secret"  # the one extension, §9.1


class Command(IntEnum):
    """§6.1"""

    MAKE_CREDENTIAL = 0x01
    GET_ASSERTION = 0x02
    GET_INFO = 0x04
    CLIENT_PIN = 0x06
    RESET = 0x07
    GET_NEXT_ASSERTION = 0x08


class Flag(IntFlag):
    """Of what is signed, WebAuthn §6.1."""

    PRESENT = 0x01
    VERIFIED = 0x04
    HAS_CREDENTIAL = 0x40
    HAS_EXTENSIONS = 0x80


class Assertion(NamedTuple):
    """What is signed, by credential after credential."""

    site: bytes
    challenge: bytes
    flags: Flag
    found: list[Credential]
    salts: Salts | None
    since: float


class Authenticator:
    """A security key behind its packets; `now` gives seconds.

    `verifies` has it know who touches it, and with `has_pin` it knows ClientPIN, whether one is set or not.
    """

    def __init__(
        self,
        keys: Keys,
        touched: Callable[[], Awaitable[None]],
        now: Callable[[], float],
        verifies: bool = False,
        has_pin: bool = False,
    ) -> None:
        self._keys, self._touched, self._now, self._verifies, self._has_pin = keys, touched, now, verifies, has_pin
        self.powered_up()

    def powered_up(self) -> None:
        """It was plugged in this moment."""
        self._since = self._now()
        self._pin = Pin(self._keys, self._has_pin)
        self._next: Assertion | None = None

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
            if pending is None or self._now() - pending.since > _NEXT_SECONDS:
                raise Refused(Code.NOT_ALLOWED)
            return self._signed(pending)
        if command == Command.GET_INFO:
            return self._info()
        if command == Command.CLIENT_PIN:
            return self._pin.done(_parsed(raw))
        if command != Command.RESET:
            raise Refused(Code.INVALID_COMMAND)
        await self._reset()
        return None

    def _info(self) -> Mapping[int, object]:
        """§5.4"""
        options = {"rk": True, "up": True, "plat": False}
        if self._has_pin:
            options["clientPin"] = self._keys.pin is not None
        if self._verifies:
            options["uv"] = True
        known = {1: ["FIDO_2_0", "U2F_V2"], 2: [_HMAC_SECRET]}
        return {**known, 3: AAGUID.bytes, 4: options, 5: MAX_MESSAGE, 6: [PROTOCOL]}

    async def _reset(self) -> None:
        if self._now() - self._since > _RESET_SECONDS:
            raise Refused(Code.NOT_ALLOWED)
        await self._touched()
        self._keys.forget()
        self._pin = Pin(self._keys, self._has_pin)

    # -- making one, §5.1 ---------------------------------------------------------------------------------------------

    async def _make(self, asked: Mapping[object, object]) -> Mapping[int, object]:
        challenge = _hash(asked, 1)
        site = site_of(_text(need(asked, 2, dict), "id"))
        user = _user(need(asked, 3, dict))
        algorithm = _algorithm(need(asked, 4, list))
        excluded = [self._keys.find(site, name) for name in _names(asked, 5)]
        has_secret = get(get(asked, 6, dict) or {}, _HMAC_SECRET, bool)
        options = self._options(asked, 7)
        if "up" in options and not options["up"]:
            raise Refused(Code.INVALID_OPTION)
        flags = await self._verified(asked, options, challenge, 8)
        if self._keys.pin is not None and not flags:
            raise Refused(Code.PIN_REQUIRED)
        await self._touched()
        if any(excluded):
            raise Refused(Code.CREDENTIAL_EXCLUDED)
        made = self._keys.make(site, algorithm)
        if options.get("rk") and not self._keys.keep(site, Credential(made.id, made.key, user)):
            raise Refused(Code.KEY_STORE_FULL)
        return self._attested(made, site, challenge, flags | (Flag.HAS_EXTENSIONS if has_secret else 0))

    def _attested(self, made: Credential, site: bytes, challenge: bytes, flags: Flag) -> Mapping[int, object]:
        """Packed attestation by the credential's own key, WebAuthn §8.2."""
        import cbor2

        counted = _COUNTED.pack(site, flags | Flag.PRESENT | Flag.HAS_CREDENTIAL, self._keys.count())
        name = len(made.id).to_bytes(2, "big") + made.id
        data = counted + AAGUID.bytes + name + cbor2.dumps(made.key.cose(), canonical=True)
        if flags & Flag.HAS_EXTENSIONS:
            data += cbor2.dumps({_HMAC_SECRET: True})
        signature = made.key.sign(data + challenge)
        return {1: "packed", 2: data, 3: {"alg": made.key.algorithm.value, "sig": signature}}

    # -- using one, §5.2 ----------------------------------------------------------------------------------------------

    async def _assert(self, asked: Mapping[object, object]) -> Mapping[int, object]:
        site, challenge = site_of(need(asked, 1, str)), _hash(asked, 2)
        names = _names(asked, 3)
        options = self._options(asked, 5)
        if "rk" in options:
            raise Refused(Code.UNSUPPORTED_OPTION)
        wanted = get(get(asked, 4, dict) or {}, _HMAC_SECRET, dict)
        if wanted is not None and not options.get("up", True):
            raise Refused(Code.UNSUPPORTED_OPTION)
        salts = self._pin.salts(wanted) if wanted is not None else None
        flags = await self._verified(asked, options, challenge, 6)
        if names:
            found = [one for one in (self._keys.find(site, name) for name in names) if one is not None][:1]
        else:
            found = self._keys.resident(site)
        if options.get("up", True):
            await self._touched()
            flags |= Flag.PRESENT
        if not found:
            raise Refused(Code.NO_CREDENTIALS)
        answer = self._signed(Assertion(site, challenge, flags, found, salts, self._now()))
        return {**answer, 5: len(found)} if len(found) > 1 else answer

    def _signed(self, asked: Assertion) -> Mapping[int, object]:
        """By the first of them; the others are for GetNextAssertion. A user's names are for who was verified."""
        import cbor2

        first, *others = asked.found
        self._next = asked._replace(found=others, since=self._now()) if others else None
        flags, extensions = asked.flags, b""
        if asked.salts is not None:
            flags |= Flag.HAS_EXTENSIONS
            extensions = cbor2.dumps({_HMAC_SECRET: asked.salts.outputs(self._keys.secret_of(first))})
        data = _COUNTED.pack(asked.site, flags, self._keys.count()) + extensions
        answer: dict[int, object] = {1: {"id": first.id, "type": "public-key"}, 2: data}
        answer[3] = first.key.sign(data + asked.challenge)
        if first.user is not None:
            answer[4] = first.user if flags & Flag.VERIFIED else {"id": first.user["id"]}
        return answer

    # -- what both ask for --------------------------------------------------------------------------------------------

    def _options(self, asked: Mapping[object, object], place: int) -> dict[str, bool]:
        """Those that it knows: it takes no notice of others, but does not claim to verify when it cannot."""
        options = {}
        for name, value in (get(asked, place, dict) or {}).items():
            if not isinstance(name, str) or not isinstance(value, bool):
                raise Refused(Code.CBOR_UNEXPECTED_TYPE)
            options[name] = value
        if options.get("uv") and not self._verifies:
            raise Refused(Code.UNSUPPORTED_OPTION)
        return options

    async def _verified(
        self, asked: Mapping[object, object], options: Mapping[str, bool], challenge: bytes, place: int
    ) -> Flag:
        """Whether it knows the person: by what a PIN's token authenticates, at `place`, or by itself.

        An empty authentication asks which of several keys a person means: that one says by a touch.
        """
        given = get(asked, place, bytes)
        if given is None:
            return Flag.VERIFIED if options.get("uv") else Flag(0)
        if not given:
            await self._touched()
            raise Refused(Code.PIN_NOT_SET if self._keys.pin is None else Code.PIN_INVALID)
        if need(asked, place + 1, int) != PROTOCOL:
            raise Refused(Code.PIN_AUTH_INVALID)
        self._pin.verify(given, challenge)
        return Flag.VERIFIED


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


def _text(where: Mapping[Any, object], key: str) -> str:
    return need(where, key, str)


def _hash(asked: Mapping[object, object], place: int) -> bytes:
    found = need(asked, place, bytes)
    if len(found) != _HASH:
        raise Refused(Code.INVALID_PARAMETER)
    return found


def _user(given: Mapping[Any, object]) -> Mapping[str, object]:
    """What is kept of a user: WebAuthn §5.4.3."""
    name = need(given, "id", bytes)
    if not 1 <= len(name) <= _USER_ID_BYTES:
        raise Refused(Code.INVALID_PARAMETER)
    words = {key: get(given, key, str) for key in ("name", "displayName")}
    return {"id": name, **{key: word for key, word in words.items() if word is not None}}


def _algorithm(wanted: list[object]) -> Algorithm:
    """The first that it can."""
    offered = [(need(one, "alg", int), _text(one, "type")) for one in map(_map, wanted)]
    for number, kind in offered:
        if kind == "public-key" and number in tuple(Algorithm):
            return Algorithm(number)
    raise Refused(Code.UNSUPPORTED_ALGORITHM)


def _names(asked: Mapping[object, object], place: int) -> list[bytes]:
    """The ids of a list of credentials, those of other types left out."""
    given = [_map(one) for one in get(asked, place, list) or ()]
    pairs = [(need(one, "id", bytes), _text(one, "type")) for one in given]
    return [name for name, kind in pairs if kind == "public-key"]


def _map(given: object) -> Mapping[Any, object]:
    if not isinstance(given, Mapping):
        raise Refused(Code.CBOR_UNEXPECTED_TYPE)
    return given
