"""What only a security key and its host know, by PIN protocol one: a PIN, a token of who was verified, secrets.

    host's key + own key --ECDH, SHA-256--> shared secret: PINs and the token go by AES-256-CBC under it

Source: Client to Authenticator Protocol 2.0 §5.5, and §9.1 for hmac-secret.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .codes import Code, Refused, need
from .keys import Keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.ciphers import CipherContext

PROTOCOL: Final = 1
_BLOCK: Final = 16
_TOKEN_BYTES: Final = 32
_NEW_BYTES: Final = 64  # of a new PIN, filled with zeros
_SHORTEST, _LONGEST = 4, 63  # bytes
_COORDINATE: Final = 32
_SALT: Final = 32
_IN_A_ROW: Final = 3  # wrong ones before it has to be plugged in again


class Sub(IntEnum):
    """§5.5.1"""

    GET_RETRIES = 1
    GET_KEY_AGREEMENT = 2
    SET = 3
    CHANGE = 4
    GET_TOKEN = 5


class Salts(NamedTuple):
    """One or two of a host's, and what it shares with the key."""

    secret: bytes
    salts: bytes

    def outputs(self, key: bytes) -> bytes:
        """The secrets of a credential that has this key of its own, for the host alone."""
        found = [hmac.digest(key, self.salts[at : at + _SALT], "sha256") for at in range(0, len(self.salts), _SALT)]
        return _encrypted(self.secret, b"".join(found))


class Pin:
    """From one power-up to the next; the PIN itself and its tries are those of `keys`."""

    def __init__(self, keys: Keys, has_pin: bool) -> None:
        self._keys, self._has_pin = keys, has_pin
        self._wrong = 0  # in a row
        self._token = os.urandom(_TOKEN_BYTES)
        self._own: EllipticCurvePrivateKey | None = None

    def done(self, asked: Mapping[Any, object]) -> Mapping[int, object] | None:
        """ClientPIN. Raises Refused."""
        if need(asked, 1, int) != PROTOCOL:
            raise Refused(Code.INVALID_PARAMETER)
        sub = need(asked, 2, int)
        if sub == Sub.GET_KEY_AGREEMENT:
            return {1: self._public()}
        if not self._has_pin:
            raise Refused(Code.INVALID_COMMAND)
        if sub == Sub.GET_RETRIES:
            return {3: self._keys.pin_tries}
        if sub not in tuple(Sub):
            raise Refused(Code.INVALID_PARAMETER)
        secret = self._secret(need(asked, 3, dict))
        if sub == Sub.GET_TOKEN:
            self._check(secret, need(asked, 6, bytes))
            return {2: _encrypted(secret, self._token)}
        self._set(asked, secret, sub == Sub.CHANGE)
        return None

    def verify(self, authentication: bytes, challenge: bytes) -> None:
        """Whether who sends this had the token. Raises Refused."""
        if self._keys.pin is None:
            raise Refused(Code.PIN_NOT_SET)
        if not hmac.compare_digest(authentication, _authenticated(self._token, challenge)):
            raise Refused(Code.PIN_AUTH_INVALID)

    # -- hmac-secret --------------------------------------------------------------------------------------------------

    def salts(self, asked: Mapping[Any, object]) -> Salts:
        """What a host wants the secrets for: §9.1. Raises Refused."""
        secret = self._secret(need(asked, 1, dict))
        sent, authentication = need(asked, 2, bytes), need(asked, 3, bytes)
        if len(sent) not in (_SALT, 2 * _SALT):
            raise Refused(Code.INVALID_LENGTH)
        if not hmac.compare_digest(authentication, _authenticated(secret, sent)):
            raise Refused(Code.PIN_AUTH_INVALID)
        return Salts(secret, _decrypted(secret, sent))

    # -- the PIN ------------------------------------------------------------------------------------------------------

    def _set(self, asked: Mapping[Any, object], secret: bytes, is_change: bool) -> None:
        """§5.5.5 and §5.5.6"""
        new, authentication = need(asked, 5, bytes), need(asked, 4, bytes)
        former = need(asked, 6, bytes) if is_change else b""
        if is_change is (self._keys.pin is None):
            raise Refused(Code.PIN_NOT_SET if is_change else Code.PIN_AUTH_INVALID)
        if not hmac.compare_digest(authentication, _authenticated(secret, new + former)):
            raise Refused(Code.PIN_AUTH_INVALID)
        if is_change:
            self._check(secret, former)
        plain = _decrypted(secret, new)
        if len(plain) != _NEW_BYTES:
            raise Refused(Code.PIN_POLICY_VIOLATION)
        self._keys.set_pin(digest(plain.rstrip(b"\0")))
        self._token = os.urandom(_TOKEN_BYTES)

    def _check(self, secret: bytes, given: bytes) -> None:
        """The half of a PIN's hash, as a host gives it: §5.5.7. Each try counts before it is looked at."""
        if self._keys.pin is None:
            raise Refused(Code.PIN_NOT_SET)
        if not self._keys.pin_tries:
            raise Refused(Code.PIN_BLOCKED)
        if self._wrong >= _IN_A_ROW:
            raise Refused(Code.PIN_AUTH_BLOCKED)
        self._keys.pin_tries -= 1
        if hmac.compare_digest(_decrypted(secret, given), self._keys.pin):
            self._keys.set_pin(self._keys.pin)
            self._wrong = 0
            return
        self._wrong += 1
        self._own = None  # a new key for who tries again
        if not self._keys.pin_tries:
            raise Refused(Code.PIN_BLOCKED)
        raise Refused(Code.PIN_AUTH_BLOCKED if self._wrong >= _IN_A_ROW else Code.PIN_INVALID)

    # -- what only the two know ---------------------------------------------------------------------------------------

    def _agreeing(self) -> EllipticCurvePrivateKey:
        from cryptography.hazmat.primitives.asymmetric import ec

        if self._own is None:
            self._own = ec.generate_private_key(ec.SECP256R1())
        return self._own

    def _public(self) -> Mapping[int, object]:
        """As COSE has it, RFC 9053 §6.3.1."""
        point = self._agreeing().public_key().public_numbers()
        x, y = (number.to_bytes(_COORDINATE, "big") for number in (point.x, point.y))
        return {1: 2, 3: -25, -1: 1, -2: x, -3: y}

    def _secret(self, key: Mapping[Any, object]) -> bytes:
        from cryptography.hazmat.primitives.asymmetric import ec

        x, y = (int.from_bytes(need(key, place, bytes), "big") for place in (-2, -3))
        try:
            other = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        except ValueError:
            raise Refused(Code.INVALID_PARAMETER) from None  # a point that is not on the curve
        return sha256(self._agreeing().exchange(ec.ECDH(), other)).digest()


def digest(words: bytes) -> bytes:
    """What is kept of a PIN, in UTF-8. Raises Refused for one that is too short or too long."""
    if not _SHORTEST <= len(words) <= _LONGEST:
        raise Refused(Code.PIN_POLICY_VIOLATION)
    return sha256(words).digest()[:_BLOCK]


def _authenticated(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")[:_BLOCK]


def _encrypted(key: bytes, data: bytes) -> bytes:
    return _run(_cipher(key).encryptor(), data)


def _decrypted(key: bytes, data: bytes) -> bytes:
    if len(data) % _BLOCK:
        raise Refused(Code.INVALID_PARAMETER)
    return _run(_cipher(key).decryptor(), data)


def _run(context: CipherContext, data: bytes) -> bytes:
    return context.update(data) + context.finalize()


def _cipher(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(key), modes.CBC(bytes(_BLOCK)))
