"""A machine whose USB devices are virtual ones, for the programs of a test: starts usbfs.py and tells it what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kernel.rig import PACKAGES

PYTHON = "/usr/bin/python3"  # Debian's, which has the bindings
WRAPPER = "umockdev-wrapper"
NEEDED = ("umockdev", "gir1.2-umockdev-1.0", "python3-gi", "usbutils")


def missing() -> str | None:
    """Why these tests cannot run here; None where they can."""
    assert PACKAGES.keys() >= {*NEEDED}, "the rig installs what is needed"
    if not shutil.which(WRAPPER) or not shutil.which("lsusb"):
        return f"packages are missing; as root: apt-get install {' '.join(NEEDED)}"
    found = subprocess.run([PYTHON, "-c", "import gi; gi.require_version('UMockdev', '1.0')"], capture_output=True)
    return None if found.returncode == 0 else f"{PYTHON} has no bindings of umockdev: {found.stderr.decode()[-200:]}"


class Testbed:
    """The other process. `do` gives it a command of class Bench, whose words are there."""

    __test__ = False  # no test class, whatever it is called

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [WRAPPER, PYTHON, str(Path(__file__).with_name("usbfs.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.root: str = self.do("where")["root"]

    def do(self, command: str, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": command, **what}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "error" not in answer, f"{command} {what}: {answer['error']}"
        return answer

    def plug(self, name: str, device: str = "zero", *faults: str, **options: str) -> None:
        self.do("plug", name=name, device=device, options=options, faults=faults)

    def state(self, name: str) -> dict[str, Any]:
        return self.do("state", name=name)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextmanager
def here() -> Iterator[Testbed]:
    """This process's own USB devices, and its children's, are those of a testbed for the length of a `with`."""
    testbed = Testbed()
    try:
        os.environ["UMOCKDEV_DIR"] = testbed.root
        yield testbed
    finally:
        os.environ.pop("UMOCKDEV_DIR", None)
        testbed.close()
