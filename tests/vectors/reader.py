"""Vectors: bytes with their meaning beside them, in text files that people can read.

    > CMD_SUBMIT, interrupt IN            a message of the importer; `<` is one of the exporter
      00000001  command: USBIP_CMD_SUBMIT   its bytes, two spaces, what they mean
      00000d05  seqnum

`#` begins a comment. `00*24` is a byte repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Message:
    """One message of a vector."""

    to_exporter: bool
    name: str
    parts: tuple[tuple[bytes, str], ...]  # bytes and their meaning

    @property
    def raw(self) -> bytes:
        return b"".join(raw for raw, _ in self.parts)

    def __str__(self) -> str:
        return f"{'>' if self.to_exporter else '<'} {self.name}"


def load(path: Path) -> list[Message]:
    """The messages of one file, in order."""
    return parse(path.read_text("utf-8"), path.name)


def parse(lines: str, name: str) -> list[Message]:
    """The messages of a text; `name` is what errors call it."""
    messages: list[Message] = []
    for number, line in enumerate(lines.splitlines(), 1):
        text = line.split("#", 1)[0].rstrip()
        if not text:
            continue
        if text[0] in "><":
            messages.append(Message(text[0] == ">", text[1:].strip(), ()))
        elif text.startswith("  ") and messages:
            raw, _, meaning = text.strip().partition("  ")
            last = messages[-1]
            messages[-1] = Message(last.to_exporter, last.name, (*last.parts, (_bytes(raw), meaning.strip())))
        else:
            raise ValueError(f"{name}:{number}: {line!r}")
    return messages


def _bytes(text: str) -> bytes:
    one, star, count = text.partition("*")
    return bytes.fromhex(one) * (int(count) if star else 1)
