"""matrix.md: every device class by every path, from the tables of the tests that run them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

from tests.conformance.matrix import reason
from tests.conformance.paths import PATHS
from tests.conformance.works import WORKS, Work

_INTRODUCTION: Final = """
# Devices and paths

{note}

Each ✓ is a test of `tests/conformance/test_matrix.py`, and part of `make test`. The device is used at the far end of
the path. Its descriptors arrive as they are; its own data goes through, and is compared; a request that it refuses is a
stall there. Where it has an endpoint that says nothing by itself, that is a stall while it is halted, and a read of it
is taken back, and ends cancelled. A number is the reason why there is no such test. Kernels, and drivers that others
wrote, are [another matter](proofs.md).
"""


def page(note: str) -> str:
    return "\n\n".join([_INTRODUCTION.strip().format(note=note), *_parts()]) + "\n"


def _parts() -> Iterator[str]:
    reasons: dict[str, int] = {}  # numbered as they come
    yield _table(
        ("", *PATHS),
        [(_name(row), *(_cell(reason(work, path), reasons) for path in PATHS)) for row, work in WORKS.items()],
    )
    yield "\n".join(f"{number}. {text}." for text, number in reasons.items())
    yield "## The paths"
    yield _table(("Path", ""), [(f"`{name}`", path.about) for name, path in PATHS.items()])
    yield "## What the devices do"
    yield _table(
        ("Device", "What is asked of it"),
        [(_name(row), _exchange(work)) for row, work in WORKS.items()],
    )


def _name(row: str) -> str:
    device, comma, way = row.partition(",")
    return f"[`{device}`](devices.md#virtual{device}){comma}{way}"


def _exchange(work: Work) -> str:
    text = inspect.getdoc(work.exchange) or ""
    return ": ".join([text, *([", ".join(f"`{line}`" for line in work.lines.splitlines())] if work.lines else [])])


def _cell(why: str | None, reasons: dict[str, int]) -> str:
    return "✓" if why is None else f"{reasons.setdefault(why, len(reasons) + 1)}"


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |".replace("  ", " ") for row in (headings, ("---",) * len(headings), *rows))
