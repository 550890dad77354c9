"""What a user writes, and the address he means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from usbferry.cli import main
from usbferry.cli.address import whole_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("lab", "usbip://lab"),
        ("lab/1-2", "usbip://lab/1-2"),
        ("lab:4000", "usbip://lab:4000"),
        ("cafe:3240", "usbip://cafe:3240"),
        ("10.0.0.7:3240", "usbip://10.0.0.7:3240"),
        ("lab:4000/1-2", "usbip://lab:4000/1-2"),
        ("192.0.2.7", "usbip://192.0.2.7"),
        ("::1", "usbip://[::1]"),
        ("[::1]:4000", "usbip://[::1]:4000"),
        ("usbip://lab", "usbip://lab"),
        ("lab/046d:c52b", "usbip://lab/046d:c52b"),
        ("lab:4000/046d:*,serial=A:B", "usbip://lab:4000/046d:*,serial=A:B"),
        ("::1/046d:c52b", "usbip://[::1]/046d:c52b"),
        ("[::1]/046d:c52b", "usbip://[::1]/046d:c52b"),
        ("virtual:zero", "virtual:zero"),
        ("virtual:", "virtual:"),
        ("usb:1-2", "usb:1-2"),  # a kind of address
        ("img", "usbip://img"),
        ("stick.img/1-2", "usbip://stick.img/1-2"),
    ],
)
def test_a_machines_name_is_its_usbip_server(text: str, address: str) -> None:
    assert whole_address(text) == address


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("stick.img", "a disk made of an image is virtual:disk?image=stick.img"),
        ("STICK.IMG", "a disk made of an image is virtual:disk?image=STICK.IMG"),
        ("/srv/debian.iso", "a disk made of an image is virtual:disk?image=/srv/debian.iso"),
        ("session.pcapng", "a recorded device is replay:session.pcapng"),
        ("./mine.py", "a device of your own is virtual:./mine.py"),
    ],
)
def test_a_file_is_no_machine(text: str, meant: str) -> None:
    """It was looked for by name: "is the name right?"."""
    with pytest.raises(ValueError, match="is no address") as caught:
        whole_address(text)
    assert str(caught.value) == f"{text!r} is no address: {meant}"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("zero", "virtual:zero"),
        ("disk?size=1M", "virtual:disk?size=1M"),
        ("1-2.4", "usb:1-2.4"),
        ("046d:c52b", "usb:046d:c52b"),
        ("0525:0104", "usb:0525:0104"),
        ("046D:*,serial=AB/C", "usb:046D:*,serial=AB/C"),
        ("class=08/06", "usb:class=08/06"),
        ("usb", "usb:..."),
        ("virtual", "virtual:..."),
        ("ferry", "ferry:..."),
    ],
)
def test_a_device_is_no_machine(text: str, address: str) -> None:
    with pytest.raises(ValueError, match="is no address: write it as") as caught:
        whole_address(text)
    assert f"write it as {address}, or usbip://" in str(caught.value)


def test_a_port_without_a_machine() -> None:
    """Asked for 3240, a resolver says 0.0.12.168."""
    with pytest.raises(ValueError, match=r"^'3240' is no address: a port stands behind its machine, write it as HOST:"):
        whole_address("3240")


@pytest.mark.parametrize("text", ["usbip//lab", "ferry//lab:1/1-2", "ferry+udp//lab"])
def test_a_colon_that_is_missing(text: str) -> None:
    """It was a machine called usbip."""
    meant = text.replace("//", "://")
    with pytest.raises(ValueError, match=rf"^{re.escape(repr(text))} is no address: write it as {re.escape(meant)}$"):
        whole_address(text)


@pytest.mark.parametrize("words", [["attach"], ["info"], ["keep"], ["list"], ["run", "--device"], ["serve"]])
def test_every_verb_says_so(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    result = CliRunner().invoke(main, [*words, "zero", *(["true"] if words[0] == "run" else [])])
    assert result.exit_code == (1 if words[0] == "list" else 2)
    assert "'zero' is no address: write it as virtual:zero, or usbip://zero if it is a machine" in result.output


@pytest.mark.parametrize("words", [["attach"], ["info"], ["list"], ["serve", "--listen", "127.0.0.1:0"]])
def test_every_verb_takes_a_machine(words: list[str]) -> None:
    result = CliRunner().invoke(main, [*words, "127.0.0.1:1"])
    assert "no connection to 127.0.0.1:1: Connection refused" in result.output
