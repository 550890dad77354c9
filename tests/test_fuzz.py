"""Every fuzz harness: its corpus replayed, and some thousand fresh inputs that are the same in every run."""

from __future__ import annotations

from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from fuzz import engine

HARNESSES = sorted(path.stem for path in Path(engine.__file__).parent.glob("*porter.py"))
FRESH = 2000


def load(name: str) -> Any:
    return import_module(f"fuzz.{name}")


def test_both_sides_of_the_protocol_have_one() -> None:
    assert {"exporter", "importer"} <= set(HARNESSES)


@pytest.mark.parametrize(
    ("name", "data"),
    [pytest.param(name, data, id=f"{name}-{file}") for name in HARNESSES for file, data in engine.corpus(name)],
)
def test_the_corpus(name: str, data: bytes) -> None:
    load(name).run(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", HARNESSES)
def test_fresh_inputs(name: str) -> None:
    harness = load(name)
    pool = [data for _, data in engine.corpus(name)] + harness.seeds()
    for data in islice(engine.inputs(pool, seed=1), FRESH):
        harness.run(data)
