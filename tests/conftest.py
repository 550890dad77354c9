"""What holds for all tests."""

import gc

import pytest

# Their assertions show both sides when they fail. Named here, for any order in which folders are given.
pytest.register_assert_rewrite("tests.protocols.usbip.wire")


def pytest_collection_finish() -> None:
    """Thousands of tests are objects too: those that collect garbage need not walk over all of them each time."""
    gc.collect()
    gc.freeze()
