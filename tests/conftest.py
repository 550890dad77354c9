"""What all folders share: where the tests of libusb run, whose failed assertions show both sides, and garbage."""

import gc
import sys
from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling

pytest.register_assert_rewrite(
    "tests.protocols.talk",
    "tests.protocols.usbip.wire",
    "tests.conformance.exchanges",
    "tests.conformance.hosts",
    "tests.conformance.live_exchanges",
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

KERNEL = PurePosixPath("tests/kernel")


class ByGuest(LoadScopeScheduling):
    """Shares tests out over processes so that those with one guest stay together: a folder of them, or else a file."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        return str(path.parent if KERNEL in path.parent.parents else path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByGuest | None:
    return ByGuest(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where modules are found is as before when a test is over: devices of one's own bring their folders along."""
    monkeypatch.setattr(sys, "path", sys.path[:])


def pytest_collection_finish() -> None:
    """Thousands of tests are objects too: those that collect garbage need not walk over all of them each time."""
    gc.collect()
    gc.freeze()
