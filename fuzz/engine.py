"""What every fuzz harness shares: inputs made from inputs, a corpus of those that reach new code, the command line.

A harness is a module with `run(data)`, which raises when something is wrong, and `seeds()`, inputs to begin with. Its
corpus is `fuzz/corpus/NAME`, one file for each input; `tests/test_fuzz.py` runs it all.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
MAX_BYTES = 4096  # of one input: small ones find what large ones do
_NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x400,
    0x401,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)


def corpus(name: str) -> list[tuple[str, bytes]]:
    """The kept inputs of a harness, by file name."""
    return [(path.name, path.read_bytes()) for path in sorted((CORPUS / name).glob("*"))]


def mutate(rng: random.Random, pool: list[bytes]) -> bytes:
    """An input made from one or two others."""
    data = bytearray(rng.choice(pool))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:  # a number where there may be one: most fields are aligned
                data[at & ~3 : (at & ~3) + 4] = rng.choice(_NUMBERS).to_bytes(4, "big")
            case 3:
                del data[at : at + rng.choice((1, 4, 16, 48, 100))]
            case 4:
                other = rng.choice(pool)
                start = rng.randrange(len(other) + 1)
                data[at:at] = other[start : start + rng.choice((4, 48, 96, 1000))]
            case 5:
                again = bytes(data[at : at + rng.choice((4, 48, 96))])
                data[at:at] = again * rng.choice((1, 1, 2, 20))
            case 6:
                data[at:at] = rng.randbytes(rng.choice((1, 4, 48)))
            case _:
                other = rng.choice(pool)
                data[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data[:MAX_BYTES])


def inputs(seeds: Iterable[bytes], seed: int) -> Iterable[bytes]:
    """Endlessly many, the same for the same seed."""
    rng, pool = random.Random(seed), list(seeds)
    yield from pool
    while True:
        yield mutate(rng, pool)


class Reached:
    """Which steps from line to line were made in files of the package."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._seen: set[tuple[str, int, int]] = set()
        self._last = 0

    def new(self, run: Callable[[bytes], None], data: bytes) -> bool:
        """Run an input; whether it made a step that none before it made."""
        before = len(self._seen)
        sys.settrace(self._trace)
        try:
            run(data)
        finally:
            sys.settrace(None)
        return len(self._seen) > before

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self._part not in frame.f_code.co_filename:
            return None
        self._last = 0
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self._seen.add((frame.f_code.co_filename, self._last, frame.f_lineno))
            self._last = frame.f_lineno
        return self._line


def main(name: str, run: Callable[[bytes], None], seeds: Iterable[bytes], part: str) -> None:
    """`python fuzz/NAME.py SECONDS [SEED]`: find inputs that break something, and keep those that reach new code."""
    if len(sys.argv) < 2:
        raise SystemExit(f"use: {sys.argv[0]} SECONDS [SEED]")
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    rng, reached, folder = random.Random(seed), Reached(part), CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    pool: list[bytes] = []
    for data in (*(kept for _, kept in corpus(name)), *seeds):
        reached.new(run, data)
        pool.append(data)
    say = partial(print, f"{name}:", flush=True)
    say(f"{len(pool)} inputs to begin with, seed {seed}")
    count, kept, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(rng, pool)
        count += 1
        try:
            found = reached.new(run, data)
        except Exception:
            path = folder / f"broken-{hashlib.sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            say(f"broken by {path}")
            raise
        if found:
            kept += 1
            pool.append(data)
            (folder / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    say(f"{count} inputs, {kept} of them kept")
