"""What the documents say is so: generated parts are fresh, programs and commands run, links lead somewhere.

Programs are the blocks marked `python`. Those of one document share their names and run in order, and what they print
is the `text` block right after. One after a paragraph that ends with the name of a file, "`NAME.py`:", is that file.
A document shows, in a `console` block, the server that its programs use; that very command is run, on another port, and
the programs' `usbip://localhost` becomes its address.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

import click
import pytest
from click.testing import CliRunner

from docs import generate
from docs.accepted import ACCEPTED
from tests.cli.served import Served, served
from usbferry.cli import VERBS, main, new
from usbferry.devices.sound import wav
from usbferry.devices.sound.pcm import Format
from usbferry.registry import DEVICES, PROTOCOLS, SOURCES, TRANSPORTS, open_source
from usbferry.selector import Selector

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("README.md"), *ROOT.glob("CONTRIBUTING.md"), *ROOT.glob("docs/**/*.md"))
    if "decisions" not in path.parts
)
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]


@pytest.fixture(autouse=True)
def same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of one's own brings its folder along."""
    monkeypatch.setattr(sys, "path", [*sys.path])


class Block(NamedTuple):
    """A piece of code in a document."""

    kind: str  # "python", "console", "text", or "" for an indented one
    line: int  # its first line, from 1
    text: str
    file: str = ""  # which it is the content of


def blocks(path: Path) -> Iterator[Block]:
    """The code of a document, fenced or indented, in its order."""
    lines = [*path.read_text(encoding="utf-8").splitlines(), "."]
    at = 0
    while at < len(lines):
        fence = re.fullmatch(r"```(\w*)", lines[at])
        end = at + 1
        if fence:
            end = lines.index("```", at + 1)
            named = re.search(r"`(\w+\.py)`:$", lines[at - 2]) if at > 1 and fence[1] == "python" else None
            yield Block(fence[1], at + 2, "\n".join(lines[at + 1 : end]), named[1] if named else "")
            end += 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1]):
            while lines[end].startswith("    ") or not lines[end]:
                end += 1
            yield Block("", at + 1, "\n".join(line[4:] for line in lines[at:end]).strip())
        at = end


def commands(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Each `usbferry ...` of a document, in words, and the lines that follow it as its output."""
    for block in blocks(path):
        if block.kind not in ("console", ""):
            continue
        found: list[tuple[list[str], list[str]]] = []
        in_it = False
        for line in block.text.splitlines():
            if block.kind == "console" and not line.startswith("$ "):
                if in_it:
                    found[-1][1].append(line)
                continue
            command = line.removeprefix("$ ").removeprefix("sudo ")
            in_it = command.startswith("usbferry ")
            if in_it:
                found.append((shlex.split(command, comments=True)[1:], []))
        yield from found


ALL_COMMANDS = [(name, *one) for name, path in zip(NAMES, DOCUMENTS, strict=True) for one in commands(path)]
WITH_PROGRAMS = [
    path.relative_to(ROOT).as_posix() for path in DOCUMENTS if any(block.kind == "python" for block in blocks(path))
]


# -- generated ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", generate.PAGES)
def test_what_is_generated_is_fresh(name):
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generate.PAGES[name](), "run: make docs"


def test_every_verb_is_described():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"\n## usbferry {verb}\n" not in text] == []


def test_every_device_is_described():
    text = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    assert [name for name in DEVICES if f"\n## virtual:{name}\n" not in text] == []


def test_every_device_was_accepted_by_somebody():
    """In a test that exists, and has the device in it."""
    assert set(ACCEPTED) == set(DEVICES)
    for name, accepted in ACCEPTED.items():
        assert accepted
        for one in accepted:
            file, _, test = one.test.partition("::")
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            tests = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
            assert test in tests, f"{name}: {one.test}"
            assert (one.of or name) in text, f"{name} is not in {file}"


def test_every_device_says_its_speed():
    text = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    assert len(re.findall(r"It (?:can be|is) at (?:\w[\w+]*, )*\w[\w+]* speed\.", text)) == len(DEVICES)


@pytest.mark.parametrize("name", generate.PAGES)
def test_no_heading_has_nothing_under_it(name):
    text = "\n".join(re.sub(r"(?m)^ .*", "code", (ROOT / "docs" / name).read_text(encoding="utf-8")).splitlines())
    found = re.findall(r"(?m)^(#+) (.*)\n\n(?=(#+) |\Z)", text)
    assert [title for level, title, after in found if len(after) <= len(level)] == []


# -- programs ----------------------------------------------------------------------------------------------------------


def serve_command(path: Path) -> list[str] | None:
    """What the document serves first."""
    return next((words[1:] for words, _ in commands(path) if words[0] == "serve"), None)


@pytest.mark.parametrize("name", WITH_PROGRAMS)
def test_programs_run_and_print_what_is_shown(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / name
    found = list(blocks(path))
    names: dict[str, object] = {"__name__": "__main__"}
    with ExitStack() as stack:
        server: Served | None = None
        for place, block in enumerate(found):
            if block.kind != "python" or block.file:
                continue
            program = block.text
            if "usbip://localhost/" in program:
                if server is None:
                    command = serve_command(path)
                    assert command, "the document does not say which server its programs use"
                    server = stack.enter_context(served(*command, runtime=tmp_path))
                program = program.replace("usbip://localhost/", f"{server.address}/")
            printed = StringIO()
            with redirect_stdout(printed):
                exec(compile("\n" * (block.line - 1) + program, path, "exec"), names)
            after = found[place + 1] if place + 1 < len(found) else None
            shown = after.text if after is not None and after.kind == "text" else ""
            assert printed.getvalue().strip() == shown.strip(), f"{name}, line {block.line}"


# -- commands ----------------------------------------------------------------------------------------------------------


def test_there_are_commands():
    assert len(ALL_COMMANDS) > 40
    assert len(WITH_PROGRAMS) >= 2


@pytest.mark.parametrize(
    ("name", "words"), [(name, words) for name, words, _ in ALL_COMMANDS], ids=lambda value: str(value)[:60]
)
def test_a_command_makes_sense(name, words, tmp_path, monkeypatch):
    """It parses, and each virtual device in it can be made."""
    monkeypatch.chdir(tmp_path)
    write_files(ROOT / name)
    context = click.Context(main, info_name="usbferry")
    if words[0].startswith("-") or words[0].isupper():
        return
    command = main.get_command(context, words[0])
    assert command is not None, f"there is no verb {words[0]}"
    if {"--help", "-h"} & set(words):
        return
    parsed = command.make_context(words[0], words[1:], parent=context).params
    given = parsed.get("addresses", parsed.get("address", ()))
    for address in (given,) if isinstance(given, str) else given:
        if address.startswith("virtual:"):
            prepare(address)
            open_source(address)


def write_files(path: Path) -> None:
    """Those that a document shows."""
    for block in blocks(path):
        if block.file:
            Path(block.file).write_text(block.text + "\n", encoding="utf-8")


def write_own(address: str) -> None:
    """A device of one's own as `usbferry new` writes it, where an address takes one for granted."""
    found = re.match(r"virtual:(?:\./(\w+)\.py|([\w.]+):(\w+))", address)
    if found is None:
        return
    file = Path(f"{found[1]}.py" if found[1] else f"{found[2].replace('.', '/')}.py")
    if not file.exists():
        device, _ = new.write(Path("written", found[1] or found[3].lower()))
        file.parent.mkdir(exist_ok=True)
        device.rename(file)


def touch_played(address: str) -> None:
    """The file of a recording or of Facedancer's, which an address names and does not open yet."""
    if played := re.match(r"(?:replay|facedancer):(\w+\.(?:pcapng|py))", address):
        Path(played[1]).touch()


def prepare(address: str) -> None:
    """Make the files that an address takes for granted."""
    write_own(address)
    options = parse_qs(address.partition("?")[2], keep_blank_values=True)
    for pipe in options.get("pipe", ()):
        os.mkfifo(pipe)
    for folder in (*options.get("files", ()), *options.get("folder", ())):
        Path(folder).mkdir()
    for source in options.get("source", ()):
        if source.startswith("wav:"):
            Path(source[4:]).write_bytes(wav.head(Format(), 0))
    for image in options.get("image", ()):
        if "size" not in options:
            Path(image).write_bytes(bytes(4096))


@pytest.mark.parametrize(
    ("words", "shown"),
    [(words, shown) for _, words, shown in ALL_COMMANDS if words[0] == "serve" and shown],
    ids=lambda value: str(value)[:60],
)
def test_a_server_says_what_is_shown(words, shown, tmp_path, monkeypatch):
    """On a free port, whichever is shown."""
    monkeypatch.chdir(tmp_path)
    prepare(words[1])
    port = re.compile(r"(?<=\b127\.0\.0\.1:)\d+")
    arguments = [port.sub("0", word) for word in words[1:]]
    with served(*arguments, runtime=tmp_path, listen=None if "--on" in words else "127.0.0.1:0") as server:
        assert [port.sub("PORT", line) for line in server.lines] == [port.sub("PORT", line) for line in shown]


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "--json"], ["info", "virtual:mouse"]])
def test_quick_ones_run(words, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output


# -- addresses ---------------------------------------------------------------------------------------------------------

ADDRESSES = [
    address
    for cell in re.findall(r"^\| (`[^|]+`) \|", (ROOT / "docs" / "addresses.md").read_text(encoding="utf-8"), re.M)
    for address in re.findall(r"`([^`]+)`", cell)
]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_address_is_one(address, tmp_path, monkeypatch):
    """Those of one's own are in files, which are taken from `usbferry new`; others need that theirs is there."""
    monkeypatch.chdir(tmp_path)
    sys.path.append(str(tmp_path))
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    write_own(address)
    touch_played(address)
    if address.startswith("usb:"):  # it opens only where libusb is
        assert "usb" in SOURCES
        Selector.parse(address.removeprefix("usb:"))
    else:
        source = open_source(address)
        assert source.address == address
        await source.close()


def test_every_way_of_every_protocol_has_its_address():
    said = {re.match(r"\w+(\+\w+)?:(///)?", address)[0] for address in ADDRESSES}
    plain = {"tcp": ":", "unix": ":///"}
    ways = {
        protocol + plain.get(transport, f"+{transport}:{'///' if TRANSPORTS[transport].at_files else ''}")
        for protocol, row in PROTOCOLS.items()
        for transport in row.transports
    }
    assert ways - said == set()
    assert {address.partition(":")[0].partition("+")[0] for address in ADDRESSES} == {*SOURCES}


# -- errors ------------------------------------------------------------------------------------------------------------


@cache
def texts_of_the_program() -> str:
    """Every text in the source, one a line; of one that is put together, its parts with a gap between them."""
    found = []
    for path in (ROOT / "src" / "usbferry").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "\0" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def messages() -> list[str]:
    """The messages of errors.md that are ours: the first column of its tables, up to those of Linux."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").partition("\n## Linux")[0]
    return [one for one in re.findall(r"^\| `([^`]+)`", text, re.M) if " " in one]


def test_there_are_messages():
    assert len(messages()) > 40


@pytest.mark.parametrize("message", messages())
def test_a_message_is_one_of_the_program(message):
    """What stands between the words in capitals occurs in the source, or is put together of two that do."""
    parts = [part.strip(" :") for part in re.split(r"\b[A-Z]{2,}(?::PORT)?\b", message)]
    assert any(len(part) > 8 for part in parts)
    assert [part for part in parts if not is_said(part)] == []


def is_said(part: str) -> bool:
    texts = texts_of_the_program()
    cuts = [match.start() for match in re.finditer(r"\b", part)]
    return part in texts or any(part[:cut].strip() in texts and part[cut:].strip() in texts for cut in cuts)


# -- links -------------------------------------------------------------------------------------------------------------


@cache
def anchors(path: Path) -> set[str]:
    """What the headings of a document can be linked by, as GitHub makes it of them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    path = ROOT / name
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        where = (path.parent / file).resolve() if file else path
        if not where.exists() or (anchor and anchor not in anchors(where)):
            dead.append(target)
    assert dead == []


def test_every_document_is_reached_from_the_index():
    seen, left = set(), [ROOT / "docs" / "index.md"]
    while left:
        path = left.pop()
        seen.add(path)
        for target in re.findall(r"\]\(([^)\s#]+\.md)", path.read_text(encoding="utf-8")):
            where = (path.parent / target).resolve()
            if where not in seen:
                left.append(where)
    assert [
        name for name, path in zip(NAMES, DOCUMENTS, strict=True) if "docs" in path.parts and path not in seen
    ] == []
