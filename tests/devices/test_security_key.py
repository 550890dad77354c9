"""The security key: python-fido2 as its host, a person who touches it or not, and hosts that send anything."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cbor2
import pytest
from fido2.client import ClientError
from fido2.ctap import CtapDevice, CtapError
from fido2.ctap1 import ApduError, Ctap1
from fido2.ctap2 import ClientPin, Ctap2
from fido2.ctap2.extensions import HmacSecretExtension
from fido2.hid import CtapHidDevice
from fido2.utils import websafe_decode
from fido2.webauthn import PublicKeyCredentialParameters, PublicKeyCredentialUserEntity
from hypothesis import given
from hypothesis import strategies as st

import usbferry
from tests.devices.fido_host import authenticated, client, plugged, registered, u2f, visit
from tests.devices.host import ask, opened, read, turn, write
from usbferry.backends.virtual import make
from usbferry.device import DeviceError
from usbferry.devices.clock import VirtualClock
from usbferry.devices.fido import keys
from usbferry.devices.fido.codes import Code
from usbferry.devices.fido.ctap2 import AAGUID, Authenticator
from usbferry.devices.fido.ctaphid import Command, packets
from usbferry.devices.fido.keys import ID_BYTES, MAX_RESIDENT, Algorithm, Credential, Keys, site_of
from usbferry.devices.security_key import SecurityKey
from usbferry.usb.setup import Setup
from usbferry.usb.types import Speed, Status

HASH = bytes(32)
ES256 = [{"alg": -7, "type": "public-key"}]
WHO = ({"id": "x.y"}, {"id": b"u", "name": "ann"}, ES256)


async def nobody() -> None:
    """Has to touch it."""


@pytest.fixture
def key() -> Iterator[CtapHidDevice]:
    with usbferry.open("virtual:security-key") as device:
        yield plugged(device)


LOADED = """
import asyncio, sys, threading, usbferry
from usbferry.devices.fido import keys
from usbferry.devices.fido.ctap2 import Authenticator
from usbferry.devices.fido.keys import Algorithm, Keys, site_of

def there():
    return {name for name in sys.modules if name.startswith(("cryptography", "cbor2"))}

class Watch:
    def find_spec(self, name, *_):
        if name in keys._MODULES:
            print(name, threading.current_thread().name)

sys.meta_path.insert(0, Watch())
assert not there()
with usbferry.open("virtual:security-key"):
    before = there()
mine = Keys()
for algorithm in Algorithm:
    made = mine.make(site_of("x.y"), algorithm)
    assert mine.find(site_of("x.y"), made.id)
    made.key.sign(b"x"), made.key.cose()
mine.attestation()
async def nobody(): pass
asyncio.run(Authenticator(mine, nobody, lambda: 0.0, False, True).answered(bytes.fromhex("06a201010202")))
asyncio.run(Authenticator(mine, nobody, lambda: 0.0, False, True).answered(b"\x04"))
assert there() == before, there() - before
"""


def test_what_it_needs_is_imported_when_it_is_opened_and_not_by_the_thread_that_answers() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    threads = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(threads) == set(keys._MODULES)
    assert "usbferry" not in threads.values()


# -- python-fido2 ------------------------------------------------------------------------------------------------------


def test_it_registers_and_authenticates(key):
    told = visit(key)
    assert told["info"] == ["FIDO_2_0", "U2F_V2"]
    assert told["aaguid"] == str(AAGUID)
    assert (told["named"], told["found"], told["u2f"]) == (True, True, "U2F_V2")


def test_one_that_knows_its_person():
    """Says so when it is asked to; users' names are for who was verified."""
    user = {"id": b"u", "name": "ann", "displayName": "Ann"}
    with usbferry.open("virtual:security-key?verify") as device:
        ctap = Ctap2(plugged(device))
        assert ctap.info.options["uv"]
        first, _ = registered(plugged(device), user_verification="required")
        authenticated(plugged(device), first, user_verification="required")
        made = ctap.make_credential(HASH, {"id": "x.y"}, user, ES256, options={"rk": True, "uv": True})
        assert made.auth_data.is_user_verified()
        used = ctap.get_assertion("x.y", HASH, options={"uv": True})
        assert used.auth_data.is_user_verified()
        assert used.user == user
        used = ctap.get_assertion("x.y", HASH)
        assert not used.auth_data.is_user_verified()
        assert used.user == {"id": b"u"}


def refusal(does: Callable[..., object], *words: object) -> int:
    with pytest.raises(CtapError) as refused:
        does(*words)
    return refused.value.code


class Direct(CtapDevice):
    """An authenticator without packets."""

    capabilities = 0x04

    def __init__(self, authenticator: Authenticator) -> None:
        self.authenticator = authenticator

    def call(self, cmd: int, data: bytes = b"", event: object = None, on_keepalive: object = None) -> bytes:
        return asyncio.run(self.authenticator.answered(data))

    def close(self) -> None: ...

    @classmethod
    def list_devices(cls) -> Iterator[CtapDevice]:
        return iter(())


@pytest.fixture
def direct() -> Direct:
    """An authenticator that knows of PINs, and has none yet."""
    return Direct(Authenticator(Keys(), nobody, lambda: 0.0, has_pin=True))


def test_a_pin_by_an_option():
    """A site that wants the person known has what it wants; python-fido2 asks for it."""
    with usbferry.open("virtual:security-key?pin=1234") as device:
        made, response = registered(plugged(device), user_verification="required")
        assert response.response.attestation_object.auth_data.is_user_verified()
        authenticated(plugged(device), made, user_verification="required")


@pytest.mark.parametrize("pin", ["123", "1" * 64, "ö" * 32])
def test_an_option_that_is_no_pin(pin):
    with pytest.raises(ValueError, match="4 to 63 bytes"):
        make("security-key", {"pin": pin})


def test_a_pin(direct):
    """Without it no credential is made any more; with it the person is known."""
    ctap = Ctap2(direct)
    assert ctap.info.options["clientPin"] is False
    pin = ClientPin(ctap)
    pin.set_pin("1234")
    assert ctap.get_info().options["clientPin"] is True
    assert refusal(pin.set_pin, "1234") == CtapError.ERR.PIN_AUTH_INVALID, "it is changed from now on"
    assert refusal(ctap.make_credential, HASH, *WHO) == CtapError.ERR.PUAT_REQUIRED
    token = pin.get_pin_token("1234")
    proof = pin.protocol.authenticate(token, HASH)
    made = ctap.make_credential(HASH, *WHO, None, None, {"rk": True}, proof, 1)
    assert made.auth_data.is_user_verified()
    assert not ctap.get_assertion("x.y", HASH).auth_data.is_user_verified()
    used = ctap.get_assertion("x.y", HASH, pin_uv_param=proof, pin_uv_protocol=1)
    assert used.auth_data.is_user_verified()
    other = pin.protocol.authenticate(token, bytes(31) + b"1")
    assert refusal(ctap.get_assertion, "x.y", HASH, None, None, None, other, 1) == CtapError.ERR.PIN_AUTH_INVALID
    pin.change_pin("1234", "secret words")
    assert refusal(ctap.get_assertion, "x.y", HASH, None, None, None, proof, 1) == CtapError.ERR.PIN_AUTH_INVALID
    assert pin.get_pin_token("secret words")
    ctap.reset()
    assert ctap.get_info().options["clientPin"] is False


@pytest.mark.parametrize("new", ["123", "1" * 64])
def test_a_pin_that_is_none(direct, new):
    """python-fido2 would not send it."""
    pin = ClientPin(Ctap2(direct))
    agreed, secret = pin._get_shared_secret()
    sent = pin.protocol.encrypt(secret, new.encode().ljust(64, b"\0"))
    proof = pin.protocol.authenticate(secret, sent)
    set_pin = partial(pin.ctap.client_pin, 1, 3, key_agreement=agreed, new_pin_enc=sent, pin_uv_param=proof)
    assert refusal(set_pin) == CtapError.ERR.PIN_POLICY_VIOLATION


@pytest.mark.parametrize("options", ["", "?pin=1234"])
def test_secrets_of_a_credential(options):
    """hmac-secret, with which disks are unlocked: one for each salt and credential, and always the same."""
    salts = [bytes([number]) * 32 for number in range(2)]
    extension = HmacSecretExtension(allow_hmac_secret=True)
    with usbferry.open(f"virtual:security-key{options}") as device:
        host = client(plugged(device), extension)
        user = PublicKeyCredentialUserEntity(id=b"u", name="ann")
        kinds = [PublicKeyCredentialParameters(type="public-key", alg=-7)]
        asked = {"rp": {"id": "example.com", "name": "x"}, "user": user, "challenge": HASH, "pubKeyCredParams": kinds}
        made = [host.make_credential({**asked, "extensions": {"hmacCreateSecret": True}}) for _ in range(2)]
        assert all(one.client_extension_results["hmacCreateSecret"] for one in made)

        def secrets(credential: Any, *salts: bytes) -> list[bytes]:
            given = dict(zip(("salt1", "salt2"), salts, strict=False))
            wanted = {"type": "public-key", "id": credential.raw_id}
            request = {"rpId": "example.com", "challenge": HASH, "allowCredentials": [wanted]}
            used = host.get_assertion({**request, "extensions": {"hmacGetSecret": given}}).get_response(0)
            results = used.client_extension_results["hmacGetSecret"]
            return [websafe_decode(results[name]) for name in ("output1", "output2") if results.get(name)]

        first = secrets(made[0], *salts)
        assert [len(one) for one in first] == [32, 32]
        assert first[0] != first[1]
        assert secrets(made[0], salts[0]) == first[:1]
        assert secrets(made[1], salts[0]) != first[:1]


def test_secrets_that_are_asked_for_wrongly(direct):
    pin = ClientPin(Ctap2(direct))
    agreed, secret = pin._get_shared_secret()

    def asked(salts: bytes, proof: bytes | None = None, up: bool = True) -> int:
        sent = pin.protocol.encrypt(secret, salts)
        proof = pin.protocol.authenticate(secret, sent) if proof is None else proof
        wanted = {**ASSERT, 4: {"hmac-secret": {1: agreed, 2: sent, 3: proof}}, 5: {"up": up}}
        return direct.call(Command.CBOR, b"\2" + cbor2.dumps(wanted))[0]

    assert asked(bytes(32)) == Code.NO_CREDENTIALS
    assert asked(bytes(48)) == Code.INVALID_LENGTH
    assert asked(bytes(32), bytes(16)) == Code.PIN_AUTH_INVALID
    assert asked(bytes(32), up=False) == Code.UNSUPPORTED_OPTION


def test_wrong_pins(direct):
    """Three in a row, until it is plugged in again; eight in all, until it is reset."""
    errors = CtapError.ERR
    pin = ClientPin(Ctap2(direct))
    pin.set_pin("1234")
    for wrong in (
        (errors.PIN_INVALID, errors.PIN_INVALID, errors.PIN_AUTH_BLOCKED, errors.PIN_AUTH_BLOCKED),
        (errors.PIN_INVALID, errors.PIN_INVALID, errors.PIN_AUTH_BLOCKED, errors.PIN_AUTH_BLOCKED),
        (errors.PIN_INVALID, errors.PIN_BLOCKED, errors.PIN_BLOCKED),
    ):
        assert [refusal(pin.get_pin_token, "4321") for _ in wrong] == list(wrong)
        assert refusal(pin.get_pin_token, "1234") == wrong[-1]
        direct.authenticator.powered_up()
    assert pin.get_pin_retries()[0] == 0
    Ctap2(direct).reset()
    pin.set_pin("1234")
    assert pin.get_pin_token("1234")


def test_a_right_pin_makes_good_for_the_wrong_ones(direct):
    pin = ClientPin(Ctap2(direct))
    pin.set_pin("1234")
    for _ in range(4):
        refusal(pin.get_pin_token, "4321")
        assert pin.get_pin_retries()[0] == 7
        pin.get_pin_token("1234")
        assert pin.get_pin_retries()[0] == 8


def test_a_site_that_wants_the_person_known_gets_an_error_of_one_that_does_not(key):
    with pytest.raises(ClientError) as refused:
        registered(key, user_verification="required")
    assert refused.value.code == ClientError.ERR.CONFIGURATION_UNSUPPORTED


def test_a_credential_of_another_key_is_none_of_its_own(key):
    made, _ = registered(key)
    with usbferry.open("virtual:security-key") as other, pytest.raises(ClientError) as refused:
        authenticated(plugged(other), made)
    assert refused.value.code == ClientError.ERR.DEVICE_INELIGIBLE


def test_who_has_a_credential_gets_no_second(key):
    made, _ = registered(key)
    with pytest.raises(ClientError) as refused:
        registered(key, credentials=[made])
    assert refused.value.code == ClientError.ERR.DEVICE_INELIGIBLE


def test_several_users_of_a_site(key):
    """The newest first, each by GetNextAssertion; a user's second credential takes the place of the first."""
    ctap = Ctap2(key)
    for user in (b"a", b"b", b"a"):
        ctap.make_credential(HASH, {"id": "x.y"}, {"id": user, "name": user.decode()}, ES256, options={"rk": True})
    found = ctap.get_assertions("x.y", HASH)
    assert [one.user["id"] for one in found] == [b"a", b"b"]
    assert found[0].number_of_credentials == 2
    assert all(set(one.user) == {"id"} for one in found), "names are for who was verified"
    assert found[1].auth_data.counter == found[0].auth_data.counter + 1
    with pytest.raises(CtapError) as refused:
        ctap.get_next_assertion()
    assert refused.value.code == CtapError.ERR.NOT_ALLOWED


def test_a_reset_forgets_everything(key):
    made, _ = registered(key, resident_key_requirement="required")
    Ctap2(key).reset()
    with pytest.raises(ClientError):
        authenticated(key, made)


def test_u2f_credentials_are_good_for_ctap2_and_the_other_way_round(key):
    made, _ = registered(key)

    used = Ctap1(key).authenticate(HASH, site_of("example.com"), made.credential_id)
    used.verify(site_of("example.com"), HASH, b"\4" + made.public_key[-2] + made.public_key[-3])
    with pytest.raises(ApduError) as refused:
        Ctap1(key).authenticate(HASH, bytes(32), made.credential_id)
    assert refused.value.code == 0x6A80
    with pytest.raises(ApduError) as refused:
        Ctap1(key).authenticate(HASH, site_of("example.com"), made.credential_id, True)
    assert refused.value.code == 0x6985, "it is ours"


@pytest.mark.parametrize(
    ("apdu", "word"),
    [
        ("00090000000000", "6d00"),
        ("80030000000000", "6e00"),
        ("0003", "6700"),
        ("00010300000001ab0000", "6700"),
        ("00020300000041" + "00" * 64 + "050000", "6700"),
        ("00020500000042" + "00" * 64 + "01ab0000", "6a86"),
    ],
)
def test_u2f_commands_that_are_wrong(key, apdu, word):
    assert key.call(Command.MSG, bytes.fromhex(apdu)).hex() == word


# -- a person ----------------------------------------------------------------------------------------------------------


class Host:
    """One in the same loop, by packets."""

    def __init__(self, device: SecurityKey) -> None:
        self.device, self.channel = device, 0xFFFF_FFFF

    async def start(self) -> Host:
        await self.send(Command.INIT, bytes(8))
        _, reply = await self.reply()
        self.channel = int.from_bytes(reply[8:12], "big")
        return self

    async def send(self, command: int, payload: bytes) -> None:
        for packet in packets(self.channel, command, payload):
            answer = self.device.submit(write(0x01, packet))
            await asyncio.wait_for(answer, 5)

    async def reply(self) -> tuple[int, bytes]:
        """The next message."""
        length, got, command = 1, b"", 0
        while len(got) < length:
            packet = bytes((await asyncio.wait_for(self.device.submit(read(0x81, 64)), 5)).data)
            if not command:
                command, length, packet = packet[4] & 0x7F, int.from_bytes(packet[5:7], "big"), packet[2:]
            got += packet[5:]
        return command, got[:length]

    async def cbor(self, command: int, asked: dict[int, Any]) -> None:
        await self.send(Command.CBOR, bytes((command,)) + cbor2.dumps(asked))

    async def asked(self, command: int, asked: dict[int, Any]) -> bytes:
        await self.cbor(command, asked)
        return await self.answer()

    async def answer(self) -> bytes:
        """What is not a keepalive."""
        while True:
            command, payload = await self.reply()
            if command != Command.KEEPALIVE:
                return payload


MAKE = {1: HASH, 2: {"id": "x.y"}, 3: {"id": b"u"}, 4: ES256}


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(("does", "code"), [("touch", Code.OK), ("refuse", Code.OPERATION_DENIED)])
async def test_it_waits_for_a_person(early, does, code):
    async with opened(SecurityKey(wait=True)) as device:
        host = await Host(device).start()
        if early:
            getattr(device, does)()
        await host.cbor(1, MAKE)
        if not early:
            assert await host.reply() == (Command.KEEPALIVE, b"\x02")
            assert device.is_waiting
            getattr(device, does)()
        assert (await host.answer())[0] == code
        assert not device.is_waiting


async def test_a_host_may_take_back_what_waits_for_a_person():
    async with opened(SecurityKey(wait=True)) as device:
        host = await Host(device).start()
        await host.cbor(1, MAKE)
        assert await host.reply() == (Command.KEEPALIVE, b"\x02")
        await host.send(Command.CANCEL, b"")
        assert await host.answer() == bytes((Code.KEEPALIVE_CANCEL,))
        await host.send(Command.PING, b"x")
        assert await host.answer() == b"x"


async def test_an_init_drops_what_waits_for_a_person():
    async with opened(SecurityKey(wait=True)) as device:
        host = await Host(device).start()
        await host.cbor(1, MAKE)
        assert await host.reply() == (Command.KEEPALIVE, b"\x02")
        await host.send(Command.INIT, b"nonce  8")
        assert (await host.answer())[:8] == b"nonce  8"
        await turn()
        assert not device.is_waiting
        device.touch()
        await host.cbor(4, {})
        assert (await host.answer())[0] == Code.OK


async def test_a_person_who_does_not_come():
    clock = VirtualClock()
    async with opened(SecurityKey(wait=True, clock=clock)) as device:
        heard = []

        async def host() -> None:
            heard.append((await (await Host(device).start()).asked(1, MAKE))[0])

        task = asyncio.get_running_loop().create_task(host())
        for _ in range(4000):
            clock.advance(0.01)
            await turn()
            if task.done():
                break
        await task
        assert heard == [Code.USER_ACTION_TIMEOUT]
        assert 29 < clock.now() < 33


def test_lines_of_a_pipe_are_the_person(tmp_path):
    lines = tmp_path / "person"
    lines.write_text("touch\nrefuse # not this one\n")
    with usbferry.open(f"virtual:security-key?pipe={lines}") as device:
        ctap = Ctap2(plugged(device))
        ctap.make_credential(HASH, {"id": "x.y"}, {"id": b"u"}, ES256)
        with pytest.raises(CtapError) as refused:
            ctap.make_credential(HASH, {"id": "x.y"}, {"id": b"u"}, ES256)
        assert refused.value.code == CtapError.ERR.OPERATION_DENIED


def test_u2f_says_at_once_that_nobody_is_there():
    with usbferry.open("virtual:security-key?wait") as device, pytest.raises(ApduError) as refused:
        u2f(plugged(device))
    assert refused.value.code == 0x6985


def test_two_programs_take_turns(key):
    """Each has a channel of its own."""
    other = CtapHidDevice(key.descriptor, key._connection)
    assert key.ping(b"one") == b"one"
    assert other.ping(b"two") == b"two"
    assert key.ping(b"three") == b"three"


# -- commands ----------------------------------------------------------------------------------------------------------


async def said(payload: bytes, verifies: bool = False) -> int:
    """The status of one command of a key that was just plugged in."""

    return (await Authenticator(Keys(), nobody, lambda: 0.0, verifies, has_pin=True).answered(payload))[0]


def changed(where: dict[int, Any], place: int, value: Any) -> bytes:
    """A MakeCredential or GetAssertion with another parameter, or without it."""
    asked = {**where, place: value}
    if value is None:
        del asked[place]
    return cbor2.dumps(asked)


ASSERT = {1: "x.y", 2: HASH}
NAMED = {"type": "public-key", "id": b"x"}


@pytest.mark.parametrize(
    ("command", "where", "place", "value", "code"),
    [
        (1, MAKE, 1, None, Code.MISSING_PARAMETER),
        (1, MAKE, 1, b"short", Code.INVALID_PARAMETER),
        (1, MAKE, 1, "text", Code.CBOR_UNEXPECTED_TYPE),
        (1, MAKE, 2, None, Code.MISSING_PARAMETER),
        (1, MAKE, 2, {}, Code.MISSING_PARAMETER),
        (1, MAKE, 2, {"id": 1}, Code.CBOR_UNEXPECTED_TYPE),
        (1, MAKE, 3, {"id": b""}, Code.INVALID_PARAMETER),
        (1, MAKE, 3, {"id": bytes(65)}, Code.INVALID_PARAMETER),
        (1, MAKE, 3, {"id": b"u", "name": b"bytes"}, Code.CBOR_UNEXPECTED_TYPE),
        (1, MAKE, 4, [], Code.UNSUPPORTED_ALGORITHM),
        (1, MAKE, 4, [{"alg": -257, "type": "public-key"}], Code.UNSUPPORTED_ALGORITHM),
        (1, MAKE, 4, [{"alg": -7, "type": "other"}], Code.UNSUPPORTED_ALGORITHM),
        (1, MAKE, 4, [{"alg": -7}], Code.MISSING_PARAMETER),
        (1, MAKE, 4, ["ES256"], Code.CBOR_UNEXPECTED_TYPE),
        (1, MAKE, 4, [{"alg": -257, "type": "public-key"}, *ES256], Code.OK),
        (1, MAKE, 5, [{"type": "public-key"}], Code.MISSING_PARAMETER),
        (1, MAKE, 5, [NAMED], Code.OK),
        (1, MAKE, 5, 1, Code.CBOR_UNEXPECTED_TYPE),
        (1, MAKE, 6, {"unknown": True}, Code.OK),
        (1, MAKE, 6, {"hmac-secret": True}, Code.OK),
        (1, MAKE, 6, {"hmac-secret": b"yes"}, Code.CBOR_UNEXPECTED_TYPE),
        (2, ASSERT, 4, {"hmac-secret": {}}, Code.MISSING_PARAMETER),
        (2, ASSERT, 4, {"hmac-secret": True}, Code.CBOR_UNEXPECTED_TYPE),
        (1, MAKE, 7, {"up": False}, Code.INVALID_OPTION),
        (1, MAKE, 7, {"uv": True}, Code.UNSUPPORTED_OPTION),
        (1, MAKE, 7, {"rk": 1}, Code.CBOR_UNEXPECTED_TYPE),
        (1, MAKE, 7, {"unknown": True}, Code.OK),
        (1, MAKE, 8, bytes(16), Code.MISSING_PARAMETER),
        (1, {**MAKE, 9: 2}, 8, bytes(16), Code.PIN_AUTH_INVALID),
        (1, {**MAKE, 9: 1}, 8, bytes(16), Code.PIN_NOT_SET),
        (6, {1: 1, 2: 1}, 1, 2, Code.INVALID_PARAMETER),
        (6, {1: 1, 2: 1}, 2, None, Code.MISSING_PARAMETER),
        (6, {1: 1, 2: 1}, 2, 9, Code.INVALID_PARAMETER),
        (6, {1: 1, 2: 5}, 3, None, Code.MISSING_PARAMETER),
        (6, {1: 1, 2: 5}, 3, {-2: b"1", -3: b"1"}, Code.INVALID_PARAMETER),
        (1, MAKE, 8, b"", Code.PIN_NOT_SET),
        (2, ASSERT, 1, None, Code.MISSING_PARAMETER),
        (2, ASSERT, 2, None, Code.MISSING_PARAMETER),
        (2, ASSERT, 2, HASH, Code.NO_CREDENTIALS),
        (2, ASSERT, 3, [NAMED], Code.NO_CREDENTIALS),
        (2, ASSERT, 3, [{"id": bytes(ID_BYTES), "type": "public-key"}], Code.NO_CREDENTIALS),
        (2, ASSERT, 5, {"rk": True}, Code.UNSUPPORTED_OPTION),
        (2, ASSERT, 5, {"up": False}, Code.NO_CREDENTIALS),
    ],
)
async def test_parameters_are_checked(command, where, place, value, code):
    assert await said(bytes((command,)) + changed(where, place, value)) == code


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x01", Code.INVALID_CBOR),
        (b"\x01\x1c", Code.INVALID_CBOR),
        (b"\x01\x80", Code.CBOR_UNEXPECTED_TYPE),
        (b"\x02" + b"\x81" * 7000, Code.INVALID_CBOR),
        (b"\x02\xbb" + b"\xff" * 8, Code.INVALID_CBOR),
        (b"\x03", Code.INVALID_COMMAND),
        (b"\x06\xa0", Code.MISSING_PARAMETER),
        (b"\x0a\xa0", Code.INVALID_COMMAND),
        (b"\x08", Code.NOT_ALLOWED),
        (b"\x07", Code.OK),
    ],
)
async def test_what_is_no_command(payload, code):
    assert await said(payload) == code


async def test_a_reset_is_for_those_who_have_just_plugged_it_in():
    now = [0.0]
    key = Authenticator(Keys(), nobody, lambda: now[0])
    now[0] = 10.5
    assert await key.answered(b"\x07") == bytes((Code.NOT_ALLOWED,))
    key.powered_up()
    assert await key.answered(b"\x07") == bytes((Code.OK,))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=70) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.integers(-9, 9) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=4,
)


@given(st.integers(0, 11), st.dictionaries(st.integers(0, 9), plain, max_size=5))
def test_any_parameters_have_a_status(command, asked):
    assert asyncio.run(said(bytes((command,)) + cbor2.dumps(asked))) in tuple(Code)


@given(st.sampled_from((1, 2)), st.sampled_from(sorted(MAKE)), plain)
def test_one_odd_parameter_has_a_status(command, place, value):
    where = MAKE if command == 1 else ASSERT
    assert asyncio.run(said(bytes((command,)) + cbor2.dumps({**where, place: value}))) in tuple(Code)


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_have_a_status(payload):
    assert asyncio.run(said(payload)) in tuple(Code)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_credential_belongs_to_its_site():
    kept = Keys()
    made = kept.make(bytes(32), Algorithm.EDDSA)
    assert len(made.id) == ID_BYTES
    assert kept.find(bytes(32), made.id) == made
    assert kept.find(b"\1" * 32, made.id) is None
    for at in range(ID_BYTES):
        wrong = made.id[:at] + bytes((made.id[at] ^ 1,)) + made.id[at + 1 :]
        assert kept.find(bytes(32), wrong) is None


def test_there_is_room_for_so_many():
    kept = Keys()
    made = kept.make(bytes(32), Algorithm.ES256)
    for number in range(MAX_RESIDENT):
        assert kept.keep(bytes((number % 7,)) * 32, Credential(made.id, made.key, {"id": bytes((number,))}))
    assert not kept.keep(bytes(32), Credential(made.id, made.key, {"id": b"one more"}))
    assert kept.keep(bytes(32), Credential(made.id, made.key, {"id": b"\0"})), "in the place of the one it has"


# -- as a device -------------------------------------------------------------------------------------------------------


async def test_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(keys, "find_spec", lambda name: None if name == "cbor2" else name)
    with pytest.raises(DeviceError, match=r"security keys need cbor2: .*install cbor2"):
        await SecurityKey().open()


@pytest.mark.slow
async def test_a_host_that_reads_nothing_has_to_wait():
    async with opened(SecurityKey()) as device:
        host = await Host(device).start()
        sent = [write(0x01, packet) for _ in range(4) for packet in packets(host.channel, Command.PING, bytes(7000))]
        answers = [device.submit(one) for one in sent]
        for _ in range(100):
            await asyncio.sleep(0.001)
        assert not answers[-1].done(), "it takes no more until its answers are fetched"
        assert [len(await host.answer()) for _ in range(4)] == [7000] * 4
        assert [(await answer).status for answer in answers] == [Status.OK] * len(answers)


async def test_nor_does_it_take_more_by_requests():
    async with opened(SecurityKey()) as device:
        packet = next(packets(0xFFFF_FFFF, Command.INIT, bytes(8)))
        answers = [ask(device, Setup(0x21, 9, 0x0200, 0, 64), packet).status for _ in range(1000)]
        assert answers[0] == Status.OK
        assert answers[-1] == Status.STALL
        assert len(device._queue) < 500


async def test_idle_reports_would_be_packets_twice():
    async with opened(SecurityKey()) as device:
        assert ask(device, Setup(0x21, 0x0A, 0)).status == Status.OK
        assert ask(device, Setup(0x21, 0x0A, 0x0400)).status == Status.STALL


@pytest.mark.parametrize("speed", ["low", "super"])
def test_speeds_it_cannot_have(speed):
    with pytest.raises(ValueError, match="full, high"):
        make("security-key", {"speed": speed})


async def test_a_reset_of_the_port_forgets_channels_and_not_keys():
    async with opened(SecurityKey(speed=Speed.HIGH)) as device:
        host = await Host(device).start()
        await host.cbor(1, {**MAKE, 7: {"rk": True}})
        assert (await host.answer())[0] == Code.OK
        await device.reset()
        await host.send(Command.PING, b"x")
        assert (await host.answer())[0] == 0x0B
        host.channel = 0xFFFF_FFFF
        await (await host.start()).cbor(2, ASSERT)
        assert (await host.answer())[0] == Code.OK
