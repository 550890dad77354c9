"""Guests and servers for the tests in this folder, all of which need the rig (rig.py) and are marked `kernel`."""

import compileall
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import rig
from tests.kernel.guest import CHECKOUT, Guest
from tests.kernel.recorder import Recorder
from tests.kernel.server import Server

LIMIT = 300  # seconds for a test and its boot, where it names no other: emulation on a busy machine

_witnesses: list[Guest | Server] = []  # those running: what they said is shown with a failure
_terminal: Any = None  # pytest's, where it is not that of one process of several


def pytest_configure(config: pytest.Config) -> None:
    global _terminal
    _terminal = None if hasattr(config, "workerinput") else config.pluginmanager.get_plugin("terminalreporter")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once why a test failed: these take minutes, and a run that somebody stops has no summary."""
    if report.failed and _terminal is not None:
        _terminal.write(f"\n{report.longreprtext[-3000:]}\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kernel)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(LIMIT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where the kernel tests are required, none may be skipped; and a failure shows the kernel's side of it."""
    report = yield
    if report.skipped and rig.is_required() and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"required here, and yet: {reason}"
    if report.failed:
        report.sections.extend((type(witness).__name__, witness.tail()) for witness in _witnesses)
    return report


@pytest.fixture(scope="session")
def kernel_rig() -> None:
    """Skips where there is no rig. Where there is one, a guest that does not boot is a failure."""
    if reason := rig.missing():
        pytest.skip(f"kernel tests: {reason}")
    for folder in ("src", "tests/kernel"):  # which emulated takes thirty times as long, in each guest anew
        compileall.compile_dir(CHECKOUT / folder, quiet=2)


@contextmanager
def running(witness: Guest | Server) -> Iterator[Guest | Server]:
    with closing(witness):
        _witnesses.append(witness)
        try:
            yield witness
        finally:
            _witnesses.remove(witness)


@pytest.fixture(scope="module")
def guest_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of class Guest for the guest of a module: its GUEST, or a fixture that overrides this."""
    options: dict[str, Any] = getattr(request.module, "GUEST", {})
    return options


@pytest.fixture(scope="module")
def guest(kernel_rig: None, guest_options: dict[str, Any]) -> Iterator[Guest]:
    """A guest, one for all tests of a module: each leaves it as it found it."""
    with running(Guest(**guest_options)) as booted:
        yield booted


@pytest.fixture
def boot(kernel_rig: None) -> Iterator[Callable[..., Guest]]:
    """Boots guests of one's own, to be killed, or with options of class Guest."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(Guest(**options)))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers: serve("virtual:zero", ...), and once more on the same port: serve(..., port=old.port)."""
    log = tmp_path / "server.log"
    with ExitStack() as stack:
        yield lambda *addresses, port=0: stack.enter_context(running(Server(addresses, log, port)))


@pytest.fixture
def record() -> Iterator[Callable[[int], Recorder]]:
    """Puts recorders in front of ports; they are closed at the end, after what they carry."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(closing(Recorder(port)))


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A FIFO that stays open for writing."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    yield path
    os.close(descriptor)
