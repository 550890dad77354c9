"""What a site and its visitor's browser do with a security key, by python-fido2: register, authenticate, check.

As a program it uses the first key that it finds among this system's hidraw devices, and prints what happened in JSON.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fido2.client import DefaultClientDataCollector, Fido2Client, UserInteraction
from fido2.ctap1 import Ctap1
from fido2.ctap2 import Ctap2
from fido2.hid import CtapHidDevice
from fido2.hid.base import CtapHidConnection, HidDescriptor
from fido2.server import Fido2Server

ORIGIN = "https://example.com"
SITE = {"id": "example.com", "name": "Example"}


class Person(UserInteraction):
    """Knows the PIN."""

    def request_pin(self, permissions: Any, rp_id: Any) -> str:
        return "1234"

    def request_uv(self, permissions: Any, rp_id: Any) -> bool:
        return True


class Packets(CtapHidConnection):
    """A key's endpoints, by usbferry, in place of hidraw."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def read_packet(self) -> bytes:
        return bytes(self._device.read(0x81, 64, timeout=30))

    def write_packet(self, data: bytes) -> None:
        self._device.write(0x01, data)

    def close(self) -> None:
        pass


def plugged(device: Any) -> CtapHidDevice:
    """A key that `usbferry.open` gave."""
    info = device.info.device
    return CtapHidDevice(
        HidDescriptor("usb", info.vendor_id, info.product_id, 64, 64, device.info.product, None), Packets(device)
    )


def client(device: CtapHidDevice, *extensions: Any) -> Fido2Client:
    return Fido2Client(device, DefaultClientDataCollector(ORIGIN), Person(), extensions=extensions)


def site() -> Fido2Server:
    return Fido2Server(SITE, attestation="direct")


def registered(device: CtapHidDevice, algorithm: int | None = None, **wanted: Any) -> tuple[Any, Any]:
    """A new credential, which the site and its attestation say is right; and the response."""
    server = site()
    options, state = server.register_begin({"id": b"user", "name": "ann", "displayName": "Ann"}, **wanted)
    public = dict(options.public_key)
    if algorithm is not None:
        public["pubKeyCredParams"] = [{"type": "public-key", "alg": algorithm}]
    response = client(device).make_credential(public)
    done = server.register_complete(state, response)
    return done.credential_data, response


def authenticated(device: CtapHidDevice, *known: Any, **wanted: Any) -> Any:
    """The credential that signed, as the site says; `known` are those that it names, `wanted[site_has]` its own."""
    server = site()
    has = wanted.pop("site_has", known)
    options, state = server.authenticate_begin(list(known) or None, **wanted)
    answer = client(device).get_assertion(options.public_key).get_response(0)
    return server.authenticate_complete(state, list(has), answer)


def check_self_attestation(response: Any) -> None:
    """Packed, by the credential's own key: WebAuthn §8.2.

    python-fido2 knows no such attestation, so the same public key that it reads checks it here.
    """
    attested = response.response.attestation_object
    assert attested.fmt == "packed"
    statement = attested.att_stmt
    key = attested.auth_data.credential_data.public_key
    assert statement["alg"] == key[3]
    assert "x5c" not in statement
    key.verify(attested.auth_data + response.response.client_data.hash, statement["sig"])


@contextmanager
def counted(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - began, 2)


def visit(device: CtapHidDevice) -> dict[str, Any]:
    """All that the tests look at, with one key; what was told."""
    seconds: dict[str, float] = {}
    told: dict[str, Any] = {"info": list(Ctap2(device).info.versions), "aaguid": str(Ctap2(device).info.aaguid)}
    assert device.ping(bytes(range(256)) * 20) == bytes(range(256)) * 20
    with counted(seconds, "made"):
        first, response = registered(device)
        check_self_attestation(response)
    with counted(seconds, "used"):
        told["named"] = authenticated(device, first).credential_id == first.credential_id
    second, _ = registered(device, -8, resident_key_requirement="required")
    told["found"] = authenticated(device, site_has=(first, second)).credential_id == second.credential_id
    told["u2f"] = u2f(device)
    told["seconds"] = seconds
    return told


def u2f(device: CtapHidDevice) -> str:
    """The older protocol's registration and authentication; its version."""
    ctap1 = Ctap1(device)
    challenge, name = (hashlib.sha256(word).digest() for word in (b"challenge", b"app"))
    made = ctap1.register(challenge, name)
    made.verify(name, challenge)
    used = ctap1.authenticate(challenge, name, made.key_handle)
    used.verify(name, challenge, made.public_key)
    assert used.user_presence == 1
    assert struct.unpack(">I", used[1:5])[0] == used.counter
    return ctap1.get_version()


if __name__ == "__main__":
    [found] = CtapHidDevice.list_devices()
    json.dump(visit(found), sys.stdout)
