"""Tests marked `umockdev` run in a process of their own, in which umockdev stands between libusb and the kernel.

One such process runs all of them that were selected, when the first is due, and shares many of them out over two more;
what it reports is reported here, test by test. Its preloaded library does nothing until a test sets up a testbed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.kernel.rig import is_required
from tests.umockdev.testbed import WRAPPER, missing

REPORT = "USBFERRY_UMOCKDEV_REPORT"  # in the environment of the inner process: the file that it reports to
LIMIT = 240  # seconds for the inner process
MANY = 20  # tests, from which on it is two: they wait more than they work

_results: dict[str, list[pytest.TestReport]] = {}


def is_inside() -> bool:
    """Whether this is the inner process."""
    return REPORT in os.environ


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if is_inside():
        return
    marked = [item for item in items if item.get_closest_marker("umockdev")]
    reason = missing() if marked else None
    for item in marked:
        item.add_marker(pytest.mark.timeout(LIMIT + 20))  # the first one waits for all
        if reason is not None and not is_required():
            item.add_marker(pytest.mark.skip(f"libusb tests: {reason}"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if is_inside() or not item.get_closest_marker("umockdev") or item.get_closest_marker("skip"):
        return None
    if not _results:
        _run([other for other in item.session.items if other.get_closest_marker("umockdev")])
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _results.get(item.nodeid) or [_lost(item)]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    item.session._setupstate.teardown_exact(nextitem)  # what tests before it share, and those after it do not
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the inner process: tell the outer one."""
    where = os.environ.get(REPORT)
    if where and _config is not None and not hasattr(_config, "workerinput"):  # where there are two, a third one tells
        data = _config.hook.pytest_report_to_serializable(config=_config, report=report)
        data.pop("node", None)  # xdist's, which is no JSON
        with Path(where).open("a") as file:
            file.write(json.dumps(data) + "\n")


_config: pytest.Config | None = None
_output = ""


def pytest_configure(config: pytest.Config) -> None:
    global _config
    _config = config


def _run(items: list[pytest.Item]) -> None:
    """Run tests in an inner process and keep what became of each."""
    global _output
    _results[""] = []  # it ran
    if reason := missing():
        _output = reason
        return
    with tempfile.TemporaryDirectory(prefix="usbferry-") as folder:
        reports = Path(folder, "reports")
        reports.touch()
        command = [WRAPPER, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["-n", "2"] if len(items) >= MANY else []
        with Path(folder, "output").open("w+") as output:
            inner = subprocess.Popen(
                [*command, *(item.nodeid for item in items)],
                cwd=items[0].config.rootpath,
                env={**os.environ, REPORT: str(reports)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                inner.wait(LIMIT)
            except subprocess.TimeoutExpired:
                inner.kill()
                inner.wait()
            output.seek(0)
            _output = output.read()[-20000:]
        for line in reports.read_text().splitlines():
            config = items[0].config
            report = config.hook.pytest_report_from_serializable(config=config, data=json.loads(line))
            if isinstance(report.longrepr, list):  # JSON knows no tuples
                report.longrepr = tuple(report.longrepr)
            _results.setdefault(report.nodeid, []).append(report)


def _lost(item: pytest.Item) -> pytest.TestReport:
    """What is said of a test of which the inner process said nothing."""
    text = f"the inner process did not run it:\n{_output}"
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
