"""Imports go sideways or downwards, never upwards, and the lower layers stay free of I/O."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "usbferry"

# Top to bottom. What a bar parts does not import each other, though it stands at the same height. `registry` may stand
# low: it holds names alone, and imports what is behind one when that is asked for.
LAYERS = """
    __init__ __main__ cli pytest_plugin testing web
    server local aio wireshark
    devices backends
    device extras selector transports registry watch | protocols
    usb
"""
PLACE = {
    name: (height, column)
    for height, row in enumerate(reversed(LAYERS.strip().splitlines()))
    for column, names in enumerate(row.split("|"))
    for name in names.split()
}
PURE = {"usb", "protocols"}  # standard library alone, and of that not:
IMPURE = {"asyncio", "socket", "os", "time"}
MEETING_PLACES = {path.stem for path in (SOURCE / "protocols").glob("*.py")}  # what all protocol folders share


def imports(path: PurePath, source: str) -> Iterator[list[str]]:
    """Every name a module imports, absolute and split at its dots, wherever in the module it does so."""
    package = ["usbferry", *path.parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = node.module.split(".") if node.module else []
            yield from ([*base, *module, alias.name] for alias in node.names)


def violations(path: PurePath, source: str) -> list[str]:
    """What a module, named by its path under src/usbferry, imports and should not."""
    here = path.with_suffix("").parts
    if here[0] not in PLACE:
        return [f"{path}: in no layer"]
    found = []
    for target in imports(path, source):
        if target[0] != "usbferry":
            wrong = here[0] in PURE and (target[0] not in sys.stdlib_module_names or target[0] in IMPURE)
        elif len(target) == 1 or target[1] not in PLACE:
            wrong = False  # the package itself, or a name in it such as __version__
        else:
            own, other = PLACE[here[0]], PLACE[target[1]]
            folder = here[1] if len(here) > 2 else None
            foreign = here[0] == target[1] == "protocols" and not {folder, *MEETING_PLACES}.issuperset(target[2:3])
            wrong = foreign or not (other[0] < own[0] or other == own)
        if wrong:
            found.append(f"{path}: imports {'.'.join(target)}")
    return found


def test_imports_go_sideways_or_downwards():
    paths = list(SOURCE.rglob("*.py"))
    assert len(paths) > 10
    assert [v for path in paths for v in violations(path.relative_to(SOURCE), path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("usb/types.py", "from ..device import Device"),
        ("usb/types.py", "import os.path"),
        ("usb/types.py", "def now():\n    from time import monotonic"),
        ("protocols/usbip/exporter.py", "import click"),
        ("protocols/usbip/exporter.py", "import asyncio"),
        ("protocols/usbip/exporter.py", "from ...device import Device"),
        ("protocols/usbip/exporter.py", "from ..usbredir import messages"),
        ("protocols/usbip/exporter.py", "from .. import usbredir"),
        ("protocols/events.py", "from .usbip.messages import Header"),
        ("device.py", "from .protocols.events import Submit"),
        ("devices/zero.py", "import usbferry.server.pump"),
        ("server/pump.py", "from ..cli import main"),
        ("helpers.py", ""),
    ],
)
def test_a_planted_violation_is_found(path: str, source: str):
    assert len(violations(PurePath(path), source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("protocols/usbip/exporter.py", "from ..events import Submit\nfrom .messages import Header\nimport struct"),
        ("protocols/usbip/__init__.py", "from .exporter import Exporter"),
        ("backends/remote.py", "from ..protocols.usbip.importer import Importer\nfrom ..device import Device"),
        ("cli/__init__.py", "from .. import __version__\nfrom ..server import pump"),
    ],
)
def test_a_legal_import_is_not(path: str, source: str):
    assert violations(PurePath(path), source) == []
