"""How tests are shared out over processes: those with one guest stay together, and the longest begin first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from tests.conftest import SECONDS, UNKNOWN, ByGuest
from tests.kernel.guest import CHECKOUT

FOLDER = CHECKOUT / "tests" / "kernel"
ALONE = {"test_real_speed.py"}  # which runs with nothing beside it


class Worker:
    """Notes the indices of what it is to run."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.sent.append(indices)


def test_the_longest_begin_first_and_a_folder_stays_together() -> None:
    names = ("test_list.py::a", "test_list.py::b", "test_new.py::a", "redir/test_x.py::a", "redir/test_y.py::a")
    tests = [f"tests/kernel/{name}" for name in names]
    scheduler, worker = ByGuest.__new__(ByGuest), Worker()
    queue = scheduler.workqueue = OrderedDict[str, dict[str, bool]]()
    for test in tests:
        queue.setdefault(scheduler._split_scope(test), {})[test] = False
    node: Any = worker
    scheduler.assigned_work, scheduler.registered_collections = {}, {node: tests}
    while queue:
        scheduler._assign_work_unit(node)
    assert SECONDS["redir"] > UNKNOWN > SECONDS["test_list.py"]
    assert worker.sent == [[3, 4], [2], [0, 1]]


def test_each_guest_has_its_seconds() -> None:
    found = {path.parent.name if path.parent != FOLDER else path.name for path in FOLDER.rglob("test_*.py")}
    assert set(SECONDS) == found - ALONE
