"""What all folders share: where the tests of libusb run, whose failed assertions show both sides, garbage, event loops,
who runs the tests of a guest, and how long the end of a test may take.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

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
from usbferry.cli.serve import loop_factory  # noqa: E402

__all__ = [
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_logreport",
    "pytest_runtest_protocol",
]

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on an event loop of one kind."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")

    def on_loop(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=loop_factory(request.param)) as runner:
            runner.run(work)

    return on_loop


KERNEL = PurePosixPath("tests/kernel")

# Seconds that those with one guest took in `make test`, beside others on two processors. The longest begin first, or
# one process had nothing to do at the end. The figures need not be right; what has none yet counts as UNKNOWN.
SECONDS = {
    "real": 280,
    "redir": 245,
    "test_interrupted.py": 225,
    "test_keep.py": 190,
    "test_usbtest.py": 190,
    "test_attach.py": 145,
    "test_media.py": 130,
    "test_hid.py": 115,
    "test_real_usbtest.py": 115,
    "usbipd": 105,
    "test_ferry.py": 95,
    "test_serial.py": 95,
    "test_faults.py": 90,
    "test_disk.py": 65,
    "test_classes.py": 60,
    "test_ethernet.py": 50,
    "test_together.py": 35,
    "test_programs.py": 30,
    "test_tshark.py": 30,
    "test_rig.py": 25,
    "test_midi.py": 15,
    "test_list.py": 13,
    "test_dissectors.py": 8,
}
UNKNOWN = 60


class ByGuest(LoadScopeScheduling):
    """Shares tests out over processes so that those with one guest stay together: a folder of them, or else a file."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        return str(path.parent if KERNEL in path.parent.parents else path)

    def _assign_work_unit(self, node: WorkerController) -> None:
        longest = max(self.workqueue, key=lambda scope: SECONDS.get(PurePosixPath(scope).name, UNKNOWN))
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByGuest | None:
    return ByGuest(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where modules are found is as before when a test is over: devices of one's own bring their folders along."""
    monkeypatch.setattr(sys, "path", sys.path[:])


ENDING = 120  # seconds for what a failed test leaves behind


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """pytest-timeout sets its timer once for a test, and takes it away when the test fails: a thread or a process that
    never ends would then be waited for until somebody stops the run. One more is set; it goes off again for whatever
    else has to be taken down.
    """
    if is_timed := hasattr(signal, "setitimer") and signal.getitimer(signal.ITIMER_REAL) == (0, 0):  # not on Windows
        signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, ENDING, ENDING / 4)
    try:
        return (yield)
    finally:
        if is_timed:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(*_: object) -> None:
    pytest.fail(f"what it left behind did not end within {ENDING} s")


def pytest_collection_finish() -> None:
    """Thousands of tests are objects too: those that collect garbage need not walk over all of them each time."""
    gc.collect()
    gc.freeze()
