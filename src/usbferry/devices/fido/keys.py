"""The keys of a security key for tests: in memory, and nowhere else. Needs `cryptography`, the extra `fido`.

A credential that its site keeps is not kept here: its id is its private key, encrypted and bound to the site. Those
that are found by the site's name alone, resident ones, are kept besides, with their users.
"""

from __future__ import annotations

import hmac
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from ...extras import install

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_NEEDED: Final = ("cryptography", "cbor2")
_PRIMITIVES: Final = "cryptography.hazmat.primitives"
_MODULES: Final = (
    "cbor2",
    "cryptography.x509",
    f"{_PRIMITIVES}.asymmetric.ec",
    f"{_PRIMITIVES}.asymmetric.ed25519",
    f"{_PRIMITIVES}.serialization",
    f"{_PRIMITIVES}.ciphers.aead",
)
_NONCE: Final = 12
_SCALAR: Final = 32  # bytes of a private key
ID_BYTES: Final = _NONCE + 1 + _SCALAR + 16  # nonce; encrypted: algorithm, private key; tag
MAX_RESIDENT: Final = 100
_TRIES: Final = 8  # wrong PINs, before nothing but a reset helps


class Algorithm(IntEnum):
    """COSE's, RFC 9053 §2."""

    ES256 = -7
    EDDSA = -8


def load() -> None:
    """Import all that a security key needs, which takes a tenth of a second. Raises ImportError."""
    for name in _MODULES:
        import_module(name)
    Key.new(Algorithm.ES256).sign(b"")  # which imports more


def is_loaded() -> bool:
    """Whether that is done."""
    return all(name in sys.modules for name in _MODULES)


def remedy() -> str | None:
    """What a user types to have what this needs; None where it is there."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    return f"security keys need {' and '.join(missing)}: {install(*missing)}" if missing else None


@dataclass(frozen=True, slots=True)
class Key:
    """A private key."""

    algorithm: Algorithm
    private: bytes

    @classmethod
    def new(cls, algorithm: Algorithm) -> Key:
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519

        if algorithm is Algorithm.ES256:
            number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
            return cls(algorithm, number.to_bytes(_SCALAR, "big"))
        return cls(algorithm, ed25519.Ed25519PrivateKey.generate().private_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """As WebAuthn wants it: ECDSA in DER, EdDSA raw."""
        if self.algorithm is Algorithm.EDDSA:
            return self._edwards().sign(data)
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        return self._curve().sign(data, ECDSA(SHA256()))

    def cose(self) -> dict[int, object]:
        """Its public key, RFC 9053 §7."""
        if self.algorithm is Algorithm.EDDSA:
            return {1: 1, 3: Algorithm.EDDSA.value, -1: 6, -2: self._edwards().public_key().public_bytes_raw()}
        point = self.point()
        return {1: 2, 3: Algorithm.ES256.value, -1: 1, -2: point[1:33], -3: point[33:]}

    def point(self) -> bytes:
        """The public key of ES256, uncompressed: 0x04, x, y."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._curve().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def certificate(self) -> bytes:
        """In DER, signed by itself, as U2F wants one; it says what it is."""
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding

        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "usbferry security key, for tests only")])
        begin, end = (datetime(year, 1, 1, tzinfo=UTC) for year in (2024, 2124))
        builder = x509.CertificateBuilder(name, name, self._curve().public_key(), 1, begin, end)
        return builder.sign(self._curve(), SHA256()).public_bytes(Encoding.DER)

    def _curve(self) -> EllipticCurvePrivateKey:
        from cryptography.hazmat.primitives.asymmetric import ec

        return ec.derive_private_key(int.from_bytes(self.private, "big"), ec.SECP256R1())

    def _edwards(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.private)


@dataclass(frozen=True, slots=True)
class Credential:
    """A key of one site; a resident one has its user."""

    id: bytes
    key: Key
    user: Mapping[str, Any] | None = None


class Keys:
    """All that a security key knows, until `forget`."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """No credential of before is any good from now on."""
        self._secret = os.urandom(32)
        self._resident: dict[bytes, list[Credential]] = {}  # by the hash of the site's name, the newest last
        self.counter = 0
        self._attestation: tuple[Key, bytes] | None = None
        self.pin: bytes | None = None  # half of its hash, §5.5.5 of CTAP 2.0
        self.pin_tries = _TRIES

    def set_pin(self, digest: bytes) -> None:
        """It is this one from now on, with all its tries."""
        self.pin, self.pin_tries = digest, _TRIES

    def count(self) -> int:
        """Up by one for each signature."""
        self.counter = (self.counter + 1) & 0xFFFF_FFFF
        return self.counter

    def make(self, site: bytes, algorithm: Algorithm) -> Credential:
        """A new credential for the site whose name has this hash."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key, nonce = Key.new(algorithm), os.urandom(_NONCE)
        plain = bytes((-algorithm,)) + key.private
        return Credential(nonce + AESGCM(self._secret).encrypt(nonce, plain, site), key)

    def find(self, site: bytes, name: bytes) -> Credential | None:
        """The credential with this id; None where it is not of this site, or none of ours."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(name) != ID_BYTES:
            return None
        kept = next((one for one in self._resident.get(site, ()) if one.id == name), None)
        if kept is not None:
            return kept
        try:
            plain = AESGCM(self._secret).decrypt(name[:_NONCE], name[_NONCE:], site)
        except InvalidTag:
            return None
        return Credential(name, Key(Algorithm(-plain[0]), plain[1:]))

    def secret_of(self, credential: Credential) -> bytes:
        """What hmac-secret makes its secrets with, CredRandom: another for each credential, and always the same."""
        return hmac.digest(self._secret, b"hmac-secret" + credential.id, "sha256")

    def keep(self, site: bytes, credential: Credential) -> bool:
        """Make it resident, in the place of one for the same user; whether there is room."""
        assert credential.user is not None
        others = [
            one
            for one in self._resident.get(site, ())
            if one.user is not None and one.user["id"] != credential.user["id"]
        ]
        is_new = len(others) == len(self._resident.get(site, ()))
        if is_new and sum(map(len, self._resident.values())) >= MAX_RESIDENT:
            return False
        self._resident[site] = [*others, credential]
        return True

    def resident(self, site: bytes) -> list[Credential]:
        """The newest first."""
        return self._resident.get(site, [])[::-1]

    def attestation(self) -> tuple[Key, bytes]:
        """The key that U2F registrations are signed with, and its certificate."""
        if self._attestation is None:
            key = Key.new(Algorithm.ES256)
            self._attestation = key, key.certificate()
        return self._attestation


def site_of(name: str) -> bytes:
    """How a site goes into everything that is signed: the hash of its name, rpIdHash."""
    return sha256(name.encode()).digest()
