"""The server under test: `python -m usbferry serve`, a process on the host."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.kernel.guest import CHECKOUT

_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")


class Server:
    """One server process, listening on the host's loopback; the guest reaches it as 10.0.2.2."""

    def __init__(self, addresses: tuple[str, ...], log: Path, port: int = 0, limit: float = 20) -> None:
        """Start it and wait until it listens; port 0 lets it choose. A restart appends to the same log."""
        self._log = log
        with log.open("ab") as output:
            written = output.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "usbferry", "serve", *addresses, "--listen", f"127.0.0.1:{port}"],
                cwd=CHECKOUT,
                # Python's own loop, as whoever installs no extra has it; with uvloop it passes too.
                env={"USBFERRY_LOOP": "asyncio", **os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + limit
        while not (found := _LISTENING.search(self.log()[written:])):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise AssertionError(f"the server does not listen:\n{self.log()[written:]}")
            time.sleep(0.02)
        self.port = int(found[1])

    def log(self) -> str:
        """What it has written until now, to stdout and stderr."""
        return self._log.read_text(errors="replace")

    def tail(self, lines: int = 50) -> str:
        """The last that it has written."""
        return "\n".join(self.log().splitlines()[-lines:])

    def terminate(self, limit: float = 15) -> int:
        """Ask it to end, as a service manager does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    close = kill
