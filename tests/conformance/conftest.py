"""The machine with USB devices, for the tests here that run inside umockdev."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.umockdev import inside, testbed


@pytest.fixture(scope="module")
def bench() -> Iterator[testbed.Testbed | None]:
    """A machine with USB devices, for the tests that run inside umockdev; the others have none."""
    if inside.is_inside():
        with testbed.here() as made:
            yield made
    else:
        yield None
