"""Who runs the programs of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.user import User, ordinary_user, python


@pytest.fixture
def user() -> Iterator[User]:
    if not python():
        pytest.skip("nobody may run no Python here: root's is in root's home")
    with ordinary_user() as one:
        yield one
