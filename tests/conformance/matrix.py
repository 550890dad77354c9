"""Which cells of the matrix there are: the works of `works` by the paths of `paths`, and why some are left out."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.paths import PATHS
from tests.conformance.works import WORKS, Work


def reason(work: Work, path: str) -> str | None:
    """Why a path cannot carry a work; None where it can."""
    return next((PATHS[path].lacks[need] for need in work.needs if need in PATHS[path].lacks), None)


def address_of(row: str, folder: Path) -> str:
    """The device of a row, with its options."""
    options = WORKS[row].options.format(folder=folder)
    return f"virtual:{row.partition(',')[0]}" + (f"?{options}" if options else "")
