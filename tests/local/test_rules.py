"""The file of `usbferry keep`: what it says, and where what is wrong in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from usbferry.backends.virtual import VirtualSource
from usbferry.local import rules
from usbferry.selector import EVERY, Selector

GOOD = """
# what the lab has
every = 0.5

[[rule]]
device = "usbip://lab/046d:c52b,serial=AB*"   # a receiver

[[rule]]
name = "board"
device = [
    "usbip://lab/1209:0001",
    'usbip://attic:4000/0483:df11',
]
within = 30
relay = true

[[rule]]
device = "virtual:zero"
"""


def test_a_file() -> None:
    found = rules.parse(GOOD)
    receiver, board, zero = found.rules
    assert found.every == 0.5
    assert (receiver.name, receiver.within, receiver.relay) == ("usbip://lab/046d:c52b,serial=AB*", 10.0, False)
    assert (board.name, board.within, board.relay) == ("board", 30.0, True)
    assert [(wish.place, str(wish.selector)) for wish in (*receiver.wishes, *board.wishes, *zero.wishes)] == [
        ("usbip://lab", "046d:c52b,serial=AB*"),
        ("usbip://lab", "1209:0001"),
        ("usbip://attic:4000", "0483:df11"),
        ("virtual:zero", ""),
    ]
    assert receiver.wishes[0].source is board.wishes[0].source  # one connection for the two
    assert receiver.wishes[0].source.selector is None or not receiver.wishes[0].source.selector.terms
    assert isinstance(zero.wishes[0].source, VirtualSource)


def test_addresses_of_a_command_line() -> None:
    found = rules.from_addresses(["usbip://lab/046d:*", "usbip://lab"], relay=True)
    assert [(one.name, one.relay, one.wishes[0].place) for one in found.rules] == [
        ("usbip://lab/046d:*", True, "usbip://lab"),
        ("usbip://lab", True, "usbip://lab"),
    ]
    assert [one.wishes[0].selector for one in found.rules] == [Selector.parse("046d:*"), EVERY]
    assert found.rules[0].wishes[0].source is found.rules[1].wishes[0].source


RULE = '[[rule]]\ndevice = "usbip://lab"\n'


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("", 1, 1, "there is no [[rule]] in it"),
        ("every = 1\n", 1, 1, "there is no [[rule]] in it"),
        ("[[rule]\n", 1, 7, "Expected ']]' at the end of an array declaration"),
        (RULE + "within : 3\n", 3, 8, "Expected '=' after a key in a key/value pair"),
        (RULE + 'name = "x', 3, 10, "Unterminated string"),
        (RULE + "name = ", 3, 8, "Invalid value"),
        (RULE + RULE + "device = 'x'", 5, 13, "Cannot overwrite a value"),
        ("[rule]\n", 1, 1, "there is no table [rule], only [[rule]]"),
        ("\n  [keep]\n", 2, 3, "there is no table [keep], only [[rule]]"),
        ("interval = 3\n", 1, 1, "there is no 'interval' here; there are: every (seconds), and [[rule]] tables"),
        ("every = 0\n" + RULE, 1, 1, "every is a number of seconds, 0.1 or more, without quotes"),
        ("every = '2'\n" + RULE, 1, 1, "every is a number of seconds"),
        ("every = true\n" + RULE, 1, 1, "every is a number of seconds"),
        ("every = nan\n" + RULE, 1, 1, "every is a number of seconds"),
        ("every = inf\n" + RULE, 1, 1, "every is a number of seconds"),
        (RULE + "within = -1\n", 3, 1, "within is a number of seconds, 0 or more"),
        (
            RULE + "\n  colour = 3\n",
            4,
            3,
            "a rule has no 'colour'; it has: name (a text), device (an address, or a list",
        ),
        (RULE + "name = 3\n", 3, 1, "name is a text, in quotes"),
        (RULE + "name = ''\n", 3, 1, "name is a text, in quotes"),
        (RULE + "name.first = 3\n", 3, 1, "name is a text, in quotes"),
        (RULE + "relay = 'yes'\n", 3, 1, "relay is true or false, without quotes"),
        (RULE + "[[rule]]\nname = 'x'\n", 3, 1, 'this rule has no device = "ADDRESS", such as usbip://HOST/046d:c52b'),
        ("[[rule]]\ndevice = []\n", 2, 1, "device is an address, or a list of them, each in quotes"),
        ("[[rule]]\ndevice = 3\n", 2, 1, "device is an address, or a list of them, each in quotes"),
        ("[[rule]]\ndevice = ['usbip://lab', 3]\n", 2, 1, "device is an address, or a list of them, each in quotes"),
        ("[[rule]]\n\tdevice =  'lab'\n", 2, 13, "'lab' is no address: write it as usbip://lab if it is"),
        ("[[rule]]\ndevice = 'ferry//lab/1-1'\n", 2, 11, "'ferry//lab/1-1' is no address: write it as ferry://lab/1-1"),
        ("[[rule]]\ndevice = 'carrier:pigeon'\n", 2, 11, "no kind of address 'carrier'; there are: "),
        ("[[rule]]\ndevice = 'virtual:zero?speed=warp'\n", 2, 11, "'warp' is none of low, full"),
        (
            "[[rule]]\ndevice = [\n  'usbip://lab/1-1',  # fine\n  'usbip://lab/046d:',\n]\n",
            4,
            4,
            "'usbip://lab/046d:': '046d:' is no VID:PID",
        ),
        ('# é\n\n[[rule]]\ndevice = "usbip://lab/vid=1"\n', 4, 11, "'vid=1' is no term of a selector; there are: "),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, line: int, column: int, says: str, tmp_path: Path) -> None:
    path = tmp_path / "keep.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="keep.toml") as caught:  # noqa: RUF043
        rules.read(path)
    assert str(caught.value).startswith(f"{path}:{line}:{column}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_said(tmp_path: Path) -> None:
    path = tmp_path / "keep.toml"
    path.write_bytes(b"every = 1 # \xff")
    with pytest.raises(ValueError, match=r"keep\.toml: it is no UTF-8 text: invalid start byte at byte 12$"):
        rules.read(path)


def test_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/me/config")
    assert rules.paths() == [Path("/home/me/config/usbferry/keep.toml"), Path("/etc/usbferry/keep.toml")]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert rules.paths()[0] == Path.home() / ".config/usbferry/keep.toml"


def test_the_files_that_the_documents_show() -> None:
    text = (Path(__file__).parents[2] / "docs" / "keep.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S)
    assert [len(one.wishes) for one in rules.parse(shown).rules] == [1, 2]
