"""A `usbferry serve` process for tests, with a runtime directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Served:
    """A server that listens. `lines` is what it said until then."""

    def __init__(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        self.process = process
        self.lines = lines
        self.listening = [line.removeprefix("listening on ") for line in lines if line.startswith("listening on ")]
        self.address = f"usbip://{self.listening[0]}" if self.listening else ""
        self.rest = ""  # what it said afterwards, once it has ended

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, self.rest = self.process.communicate(timeout=30)
        return self.process.returncode


def start(*arguments: str, runtime: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "usbferry", "serve", *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), **environment},
    )


@contextmanager
def served(*arguments: str, runtime: Path, listen: str | None = "127.0.0.1:0", **environment: str) -> Iterator[Served]:
    """Serve until the end of the `with`. Fails when it does not listen, or does not end well."""
    if "--listen" not in arguments and listen is not None:
        arguments = (*arguments, "--listen", listen)
    process = start(*arguments, runtime=runtime, **environment)
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if line.startswith("listening on "):
                break
        assert any(line.startswith("listening on ") for line in lines), lines
        server = Served(process, lines)
        yield server
        if process.poll() is None:
            assert server.end() == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
