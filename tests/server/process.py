"""`usbferry serve` as a process, as a service manager runs it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Process:
    """A server on a port of its own. What it says goes to a file, for a pipe that nobody reads would stop it."""

    def __init__(self, *addresses: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as the process)
        command = [sys.executable, "-m", "usbferry", "serve", "--listen", "127.0.0.1:0", *addresses]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self._log, stderr=self._log)
        end = time.monotonic() + 20
        while not (found := re.search(r"listening on 127\.0\.0\.1:(\d+)", self.said())):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)
        self.port = int(found[1])

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def trouble(self) -> str:
        """The first exception that nobody expected, as it was logged; empty when there was none."""
        before, found, after = self.said().partition("Traceback")
        return found and "\n".join([*before.splitlines()[-3:], found, *after.splitlines()[:40]])

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def stop(self, number: int) -> tuple[int, float]:
        """Its exit status after a signal, and how many seconds it took."""
        before = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(15), time.monotonic() - before

    def memory(self) -> int:
        """Bytes of memory in use (VmRSS)."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def files(self) -> int:
        """File descriptors that are open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))
