"""What takes long is shown while it takes: one line on a terminal, and nothing at all on a pipe or in a file.

Another machine that does not answer, the files of a large folder: no bar can tell how much of that is left, so the line
says what is waited for, and since when. A thread writes it, for the work may leave its own thread no time.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from . import printable

_AFTER: Final = 0.5  # seconds without a word: most work is done by then
_EVERY: Final = 0.25
_ERASE: Final = "\r\x1b[K"


@contextmanager
def waiting(what: str | Callable[[], str], stream: TextIO | None = None) -> Iterator[None]:
    """For the length of a `with`, say on stderr what is waited for, if that is a terminal and it takes long."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield
        return
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(what, stream, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _tell(what: str | Callable[[], str], stream: TextIO, over: threading.Event) -> None:
    since = time.monotonic()
    if over.wait(_AFTER):
        return
    while True:
        words = what if isinstance(what, str) else what()
        text = printable(f"{words} ... {time.monotonic() - since:.0f} s")
        room = shutil.get_terminal_size().columns - 1
        stream.write(f"{_ERASE}{text[:room]}\r")  # back at the start: what others say does not stand behind it
        stream.flush()
        if over.wait(_EVERY):
            stream.write(_ERASE)
            stream.flush()
            return
