"""What all folders share: where the tests of libusb run, whose failed assertions show both sides, and garbage."""

import gc

import pytest

pytest.register_assert_rewrite(
    "tests.protocols.talk", "tests.protocols.usbip.wire", "tests.conformance.exchanges", "tests.conformance.hosts"
)  # for any order in which folders are given

from tests import strategies  # noqa: E402, F401  (whose profile holds for every property test)
from tests.umockdev.inside import (  # noqa: E402
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_logreport,
    pytest_runtest_protocol,
)

__all__ = [
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_logreport",
    "pytest_runtest_protocol",
]


def pytest_collection_finish() -> None:
    """Thousands of tests are objects too: those that collect garbage need not walk over all of them each time."""
    gc.collect()
    gc.freeze()
