"""What a process says of itself to others of this machine: a small file, written whole, gone with the process.

A file rather than a socket: it costs the writer nothing when nobody looks, and a reader cannot disturb it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

WRITE_SECONDS: Final = 0.05  # changes that come together are written once


class StatusFile:
    """Keeps the file of this process up to date; `close` removes it.

    `say` gives what it says besides the header. `mode` is of the folder, which is made, and written to if `is_good`. A
    full or read-only disk stops nobody.
    """

    def __init__(
        self,
        folder: Path,
        schema: str,
        say: Callable[[], dict[str, Any]],
        *,
        mode: int = 0o755,
        is_good: Callable[[Path], bool] = Path.is_dir,
    ) -> None:
        self._path = folder / f"{os.getpid()}.json"
        self._schema, self._say, self._mode, self._is_good = schema, say, mode, is_good
        self._timer: asyncio.TimerHandle | None = None

    def write_soon(self) -> None:
        """Something has changed."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self.write)

    def write(self) -> None:
        self._timer = None
        text = json.dumps({**header(self._schema), **self._say()})
        with suppress(OSError):
            self._path.parent.mkdir(mode=self._mode, parents=True, exist_ok=True)
            if self._is_good(self._path.parent):
                replace(self._path, text)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with suppress(OSError):
            self._path.unlink()


def header(schema: str) -> dict[str, Any]:
    """What each file begins with: who wrote it."""
    return {"schema": schema, "pid": os.getpid(), "started": start_of(os.getpid())}


def replace(path: Path, text: str) -> None:
    """A reader finds what was there, or all of this. Raises OSError."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def load(path: Path, schema: str) -> dict[str, Any] | None:
    """What a file says; None where it is gone this moment, or none of these."""
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    is_one = isinstance(said, dict) and said.get("schema") == schema and isinstance(said.get("pid"), int)
    return said if is_one else None


def read(folder: Path, schema: str) -> list[dict[str, Any]]:
    """What the processes that run now say, by process id. A file whose process died is removed by who may."""
    found = []
    for path in folder.glob("*.json"):
        said = load(path, schema)
        if said is None:
            continue
        if is_of_living(said):
            found.append(said)
        else:
            with suppress(OSError):
                path.unlink()
                path.with_suffix(".new").unlink(missing_ok=True)
    return sorted(found, key=lambda one: int(one["pid"]))


def is_of_living(said: dict[str, Any]) -> bool:
    """Whether the process that wrote a file is there still, and not another one that got its number."""
    pid, started = said["pid"], said.get("started")
    if sys.platform == "win32":
        return True  # signal 0 is Ctrl-C there; a stale file is the lesser evil
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return started is None or started == start_of(pid)


def start_of(pid: int) -> str | None:
    """When a process started, in a form that only tells it from others; None where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]  # field 22, proc(5)
