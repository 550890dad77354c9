"""Who speaks what is told by his first bytes: both sides of every row of PROTOCOLS, and a few that are none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.protocols.ferry import wire as ferry
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Refusal
from usbferry.protocols.openings import Stranger, check, spoken_by
from usbferry.registry import PROTOCOLS, load_exporter, load_importer

TITLES = {"usbip": "USB/IP"}
TLS = bytes.fromhex("16030100f8010000f4030390")  # a ClientHello
ALERT = bytes.fromhex("15030300020246")  # protocol_version, as an answer to what is no TLS
# What the other side begins with, and how it is called.
FOREIGN = {
    "a browser": (b"GET / HTTP/1.1\r\nHost: x:3240\r\n\r\n", ", it says 'GET / HTTP/1.1'"),
    "a web server": (b"HTTP/1.1 400 Bad Request\r\n\r\n", ", it says 'HTTP/1.1 400 Bad Request'"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", ", it says 'SSH-2.0-OpenSSH_9.2'"),
    "a monitor of QEMU": (
        b'{"QMP": {"version": {"qemu": {"micro": 0}}}}\r\n',
        """, it says '{"QMP": {"version": {"qemu": {"micro": 0'""",
    ),
    "TLS": (TLS, " but TLS"),
    "a TLS server": (ALERT, " but TLS"),
    "SPICE": (b"REDQ\x02\x00\x00\x00\x02\x00\x00\x00\x12", " but SPICE"),
    "noise": (b"\xff\xfe\xfd\xfc" * 12, ""),
    "line ends": (b"\r\n" * 4, ""),
}


def take(machine: Any) -> bytes:
    said, machine.outgoing, machine.outgoing_bytes = b"".join(machine.outgoing), [], 0
    return said


def hear(machine: Any, said: bytes) -> list[Any]:
    machine.receive(memoryview(said), 0.0)
    return [*machine.events()]


def begin(protocol: str, question: str) -> tuple[bytes, bytes]:
    """The first words of an importer, and of an exporter that heard them."""
    importer, exporter = load_importer(protocol)(), load_exporter(protocol)()
    importer.claim("1-1") if question == "claim" else importer.list_devices()
    said = take(importer)
    hear(exporter, said)
    if protocol == "usbip":  # the others have said something by now
        exporter.listed([]) if question == "list" else exporter.refuse(Refusal.BUSY)
    return said, take(exporter)


@pytest.mark.parametrize("question", ["claim", "list"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_both_sides_of_every_protocol_are_told(protocol: str, question: str) -> None:
    """By twelve bytes; by fewer it is that one, or not known yet."""
    for said in begin(protocol, question):
        assert spoken_by(said) == spoken_by(said[:12]) == protocol
        assert {spoken_by(said[:length]) for length in range(len(said))} <= {"", protocol}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_is_let_speak_however_its_words_are_cut(protocol: str) -> None:
    importer = load_importer(protocol)
    for question in ("claim", "list"):
        _, said = begin(protocol, question)
        for length in range(len(said) + 1):
            check(protocol, importer.opening, said[:length])


def test_a_refusal_of_ferrys_is_ferry_too() -> None:
    assert spoken_by(ferry.reply(1 << 31, 10)) == "ferry"


@pytest.mark.parametrize("other", PROTOCOLS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_exporter_names_who_speaks_another_protocol(protocol: str, other: str) -> None:
    if protocol == other:
        return
    for question in ("claim", "list"):
        said, _ = begin(other, question)
        with pytest.raises(Stranger) as raised:
            hear(load_exporter(protocol)(), said)
        assert raised.value.spoken == other
        assert str(raised.value) == f"it does not speak {TITLES.get(protocol, protocol)} but {TITLES.get(other, other)}"


@pytest.mark.parametrize("said", FOREIGN)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_speaks_none_of_them(protocol: str, said: str) -> None:
    raw, words = FOREIGN[said]
    text = f"it does not speak {TITLES.get(protocol, protocol)}{words}"
    exporter, importer = load_exporter(protocol)(), load_importer(protocol)
    with pytest.raises(Stranger) as raised:
        check(protocol, importer.opening, raw)
    assert str(raised.value) == text
    if len(raw) >= 8:  # no client says less: a USB/IP exporter waits for it
        with pytest.raises(Stranger) as raised:
            hear(exporter, raw)
        assert str(raised.value) == text


@pytest.mark.parametrize("version", ["0106", "0112"])
def test_another_version_of_usbip_is_no_stranger(version: str) -> None:
    with pytest.raises(ProtocolError, match=f"version 0x{version}, spoken here is 0x0111") as raised:
        hear(load_exporter("usbip")(), bytes.fromhex(f"{version}800500000000"))
    assert not isinstance(raised.value, Stranger)
