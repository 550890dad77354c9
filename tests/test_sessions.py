"""Pages that a reader follows from the top to the end: their files are written, their commands run, in a shell's way.

What a page shows below a command is part of what it prints, line by line and in that order; times and ports may differ.
What needs a kernel (`sudo`) is run by `tests/kernel/test_attach.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.served import served
from tests.test_docs import ROOT, blocks

pytestmark = pytest.mark.slow
NOT_THE_READERS = ("hypothesispytest", "xdist", "xdist.looponfail", "rerunfailures")  # plug-ins that take a second
PAGES = ("docs/write-a-device.md", "docs/testing.md")
DIFFERS = re.compile(r"\d+\.\d{3} s|:\d{4,5}\b|-{5,}")
FRAME = re.compile(r" in \d+\.\d+s|={5,}")  # around pytest's sums


def steps(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Files, as ("FILE NAME", its lines), and commands with the lines shown below them."""
    for block in blocks(path):
        if block.file:
            yield f"FILE {block.file}", block.text.splitlines()
        elif block.kind == "console":
            parts = re.split(r"(?m)^\$ ", block.text)
            assert parts[0] == ""
            for part in parts[1:]:
                command, *shown = part.splitlines()
                yield command, shown


def is_run_without(command: str) -> bool:
    """Whether a step needs no kernel."""
    return command.startswith(("FILE ", "cd ", "python ", "usbferry "))


def environment() -> dict[str, str]:
    """As after `activate` of the environment of the tests; what pytest was told is not for the pytest of a page."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "USBFERRY_"))}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    without = " ".join(f"-p no:{name}" for name in NOT_THE_READERS)
    return {**kept, "PATH": path, "COLUMNS": "200", "PYTEST_ADDOPTS": without}


def plain(line: str) -> str:
    return DIFFERS.sub("#", FRAME.sub("", line)).strip()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.timeout(120)
def test_a_page_is_so_from_the_top_to_the_end(page: str, tmp_path: Path) -> None:
    folder, address, count = tmp_path, "", 0
    with ExitStack() as stack:
        for command, shown in filter(lambda step: is_run_without(step[0]), steps(ROOT / page)):
            words = command.split()
            if words[0] == "FILE":
                (folder / words[1]).write_text("\n".join(shown) + "\n", encoding="utf-8")
            elif words[0] == "cd":
                folder /= words[1]
            elif words[:2] == ["usbferry", "serve"]:
                with_folder = [word.replace("./", f"{folder}/") for word in words[2:]]
                server = stack.enter_context(served(*with_folder, runtime=tmp_path))
                address = server.address
                assert [line.replace(f"{folder}/", "./") for line in map(plain, server.lines)] == [*map(plain, shown)]
            else:
                run(command.replace("usbip://localhost", address), shown, folder)
            count += 1
    assert count >= 4


def run(command: str, shown: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    fails = any(" failed" in line for line in shown)
    assert bool(done.returncode) == fails, done.stdout
    printed = iter([plain(line) for line in done.stdout.splitlines()])
    for line in map(plain, shown):
        assert line in printed, f"{command}: {line!r} is not there, or not in this order:\n{done.stdout}"


def test_what_a_kernel_does_is_left_to_it() -> None:
    left = {page: [step for step, _ in steps(ROOT / page) if not is_run_without(step)] for page in PAGES}
    assert [step for step in left["docs/write-a-device.md"] if step.startswith("sudo usbferry attach ")]
    assert left["docs/testing.md"] == []
