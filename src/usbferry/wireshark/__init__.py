"""Wireshark's dissectors for ferry and usbredir: one Lua script, put together of the files here and the code's tables.

`tables` writes calls, layouts, codes and capabilities as Lua, from the modules that the protocols go by: what Wireshark
shows cannot differ from what is spoken here.
"""

from __future__ import annotations

from importlib.resources import files

from . import tables

NAME = "usbferry.lua"  # of the script, where Wireshark looks for it


def script(version: str) -> str:
    """The whole script; `version` is named at its top."""
    return "\n".join(
        (
            f"-- Wireshark dissectors for ferry and usbredir, by usbferry {version}: usbferry wireshark --install",
            "if _G.USBFERRY_IS_HERE then return end -- installed, and given with -X besides",
            "_G.USBFERRY_IS_HERE = true",
            _text("usb.lua"),
            "do",
            tables.ferry(),
            _text("ferry.lua"),
            "end",
            "do",
            tables.usbredir(),
            _text("usbredir.lua"),
            "end",
            "",
        )
    )


def _text(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")
