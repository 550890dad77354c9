"""Options as text: what a user writes, what a class gets, and what is said when the two do not meet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from usbferry.backends.options import arguments, described, options_of, split
from usbferry.registry import DEVICES, load, open_source
from usbferry.usb.types import Speed


@pytest.mark.parametrize(
    "address",
    ["virtual:zero&speed=full", "usbip://host/1-1&buffer=0.1", "ferry://host&buffer=0.1", "usbredir://host&ahead=0x81"],
)
@pytest.mark.parametrize("outer", ["", "tap:x?of=", "tap:x?of=tap:y?of="])
def test_the_first_option_behind_the_wrong_sign(address: str, outer: str) -> None:
    """It was a virtual device, a selector or a host of a strange name."""
    meant = address.replace("&", "?")
    said = f"^{re.escape(repr(address))}: options stand behind a question mark, write it as {re.escape(meant)}$"
    with pytest.raises(ValueError, match=said):
        open_source(outer + address)


@pytest.mark.parametrize("address", ["replay:a&b.pcapng", "virtual:./R&D.py", "usbip://host/vid=1&2", "usb:?x&y=1"])
def test_a_sign_that_is_part_of_a_name(address: str) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*question mark)"):
        open_source(address)


class Thing:
    def __init__(
        self,
        ignored: object = None,
        *,
        size: int = 512,
        limit: int | None = None,
        rate: float = 0.5,
        loud: bool = False,
        label: str = "",
        image: Path | None = None,
        speed: Speed = Speed.SUPER_PLUS,
        clock: object = None,
    ) -> None:
        pass


class Needy:
    def __init__(self, *, image: Path, size: int, label: str = "") -> None:
        pass


def value(name: str, text: str) -> Any:
    return arguments("thing", Thing, {name: text})[name]


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        ("", []),
        ("&", []),
        ("a=1&b=2", [("a", "1"), ("b", "2")]),
        ("a=1&a=2", [("a", "1"), ("a", "2")]),
        ("loud", [("loud", "")]),
        ("loud=", [("loud", "")]),
        ("speed=super+", [("speed", "super+")]),
        ("label=A%20B%26%3D%25%2B", [("label", "A B&=%+")]),
        ("to=tcp:host:80?x=y", [("to", "tcp:host:80?x=y")]),
        ("image=/a/b.img=c", [("image", "/a/b.img=c")]),
        ("label=caf%C3%A9", [("label", "café")]),
        ("label=100%", [("label", "100%")]),
    ],
)
def test_the_options_of_an_address(query: str, pairs: list[tuple[str, str]]) -> None:
    assert split(query) == pairs


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("64", 64),
        ("-1", -1),
        ("0x40", 0x40),
        ("0xfff", 0xFFF),
        ("0b11", 3),
        ("1_000", 1000),
        ("2k", 2048),
        ("32M", 32 << 20),
        ("4G", 4 << 30),
        ("3t", 3 << 40),
        ("0x10K", 16384),
    ],
)
def test_numbers(text: str, number: int) -> None:
    assert value("size", text) == value("limit", text) == number


@pytest.mark.parametrize("text", ["", "k", "M", "x", "1.5", "1.5G", "32MB", "010", "0x", "--1", "1e3", "٣k٣"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"^thing, option size: .* is no number; write it as 512, 0x200, or 32M$"):
        value("size", text)


@pytest.mark.parametrize(("text", "number"), [("2", 2.0), ("0.25", 0.25), ("1e-3", 0.001), ("-1", -1.0)])
def test_decimals(text: str, number: float) -> None:
    assert value("rate", text) == number


@pytest.mark.parametrize("text", ["", "fast", "inf", "nan", "1e999", "0x10"])
def test_what_is_no_decimal(text: str) -> None:
    with pytest.raises(ValueError, match=r"^thing, option rate: .* is no number; write it as 2 or 0\.5$"):
        value("rate", text)


@pytest.mark.parametrize("text", ["", "1", "yes", "true", "on", "Yes", "TRUE"])
def test_switched_on(text: str) -> None:
    assert value("loud", text) is True


@pytest.mark.parametrize("text", ["0", "no", "false", "off", "No"])
def test_switched_off(text: str) -> None:
    assert value("loud", text) is False


def test_neither_on_nor_off() -> None:
    with pytest.raises(ValueError, match="'maybe' is none of yes, on, true, 1, no, off, false, 0"):
        value("loud", "maybe")


@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("low", Speed.LOW),
        ("full", Speed.FULL),
        ("high", Speed.HIGH),
        ("super", Speed.SUPER),
        ("super+", Speed.SUPER_PLUS),
        ("High", Speed.HIGH),
    ],
)
def test_speeds(text: str, speed: Speed) -> None:
    assert value("speed", text) is speed


@pytest.mark.parametrize("text", ["", "warp", "3", "wireless"])
def test_what_is_no_speed(text: str) -> None:
    with pytest.raises(ValueError, match=r"thing, option speed: .* is none of low, full, high, super, super\+$"):
        value("speed", text)


def test_paths_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert value("image", "~/stick.img") == Path("/home/me/stick.img")
    assert value("image", "a+b.img") == Path("a+b.img")
    assert value("label", "") == ""
    with pytest.raises(ValueError, match="thing, option image: it needs a file's name"):
        value("image", "")


def test_an_option_that_is_not_there() -> None:
    known = "size, limit, rate, loud, label, image, speed"
    with pytest.raises(ValueError, match=f"^thing has no option 'colour'; it has: {known}, fault$"):
        arguments("thing", Thing, {"colour": "red"}, also=("fault",))
    with pytest.raises(ValueError, match="thing has no option 'clock'"):
        arguments("thing", Thing, {"clock": "1"})
    with pytest.raises(ValueError, match="thing has no option 'ignored'"):
        arguments("thing", Thing, {"ignored": "1"})


def test_options_that_are_missing() -> None:
    assert arguments("needy", Needy, {"image": "a", "size": "1"}) == {"image": Path("a"), "size": 1}
    with pytest.raises(ValueError, match=r"^needy needs image=\.\.\. and size=\.\.\.$"):
        arguments("needy", Needy, {})
    with pytest.raises(ValueError, match=r"^needy needs size=\.\.\.$"):
        arguments("needy", Needy, {"image": "a"})


def test_a_class_describes_its_options() -> None:
    assert described(Thing) == {
        "size": {"type": "int", "default": 512},
        "limit": {"type": "int", "default": None},
        "rate": {"type": "float", "default": 0.5},
        "loud": {"type": "bool", "default": False},
        "label": {"type": "str", "default": ""},
        "image": {"type": "path", "default": None},
        "speed": {"type": "speed", "default": "super+"},
    }
    assert described(Needy)["image"] == {"type": "path", "default": None}


@pytest.mark.parametrize("name", DEVICES)
def test_every_option_of_every_device_has_a_text_form(name: str) -> None:
    factory = load(DEVICES, "virtual device", name)
    assert set(options_of(factory)) == set(described(factory))
    assert "serial" in options_of(factory)  # identical devices must be told apart
