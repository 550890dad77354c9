"""Captures as Wireshark decodes them with our dissectors."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from usbferry.wireshark import script

Row = dict[str, list[str]]  # field -> its values in one frame, in their order

# What says that a dissector did not understand something, or broke.
WRONG = "_ws.malformed || _ws.lua || _ws.expert.severity == error"


class Dissected:
    """One capture file."""

    def __init__(self, capture: Path) -> None:
        self._capture = capture
        self._script = capture.with_suffix(".lua")
        self._script.write_text(script("test"), "utf-8")

    def show(self, *words: str) -> str:
        """What tshark says of it."""
        command = ["tshark", "-r", self._capture, "-X", f"lua_script:{self._script}", "-n", *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
        assert "lua" not in done.stderr.lower(), done.stderr
        return done.stdout

    def wrong(self, *words: str) -> list[str]:
        """The frames with something that is not understood."""
        return self.show("-Y", WRONG, *words).splitlines()

    def rows(self, filter: str, fields: Iterable[str]) -> list[Row]:
        """The frames of a display filter."""
        names = tuple(fields)
        words = [word for name in names for word in ("-e", name)]
        # Not a comma: texts have some.
        shown = self.show("-Y", filter, "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=;", *words)
        return [
            {name: text.split(";") for name, text in zip(names, line.split("\t"), strict=True) if text}
            for line in shown.splitlines()
        ]
