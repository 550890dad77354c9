"""The table of what each device class is put to in the matrix: a new one needs a row here, and an exchange.

A row's name begins with the device's; what follows a comma is a way of its own to use it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

from tests.conformance import exchanges, live_exchanges
from tests.conformance.hosts import Host


class Work(NamedTuple):
    """How the device is made, and the exchange that shows it working. `{folder}` in the options is the exchange's.

    `quiet` is an endpoint that is read in vain after it, or its packets where it is isochronous: what is taken back.
    `needs` are what a path may lack.
    """

    exchange: Callable[[Host, Path], Awaitable[None]]
    options: str = ""
    quiet: int = 0x81
    lines: str = ""  # of the file {folder}/lines
    needs: tuple[str, ...] = ()


FEW: Final = ("disk", "keyboard", "microphone", "zero")  # rows for who cannot wait: of each type of transfer
_LINES: Final = "pipe={folder}/lines&delay=0"

WORKS: Final = {
    "broken": Work(exchanges.loop, quiet=0x82),
    "camera": Work(live_exchanges.picture, "formats=yuy2&sizes=160x120"),
    "camera, bulk": Work(live_exchanges.picture_in_bulk, "formats=yuy2&sizes=160x120&bulk&rates=1"),
    "composite": Work(
        exchanges.dock, "parts=keyboard+serial+disk&keyboard.text=aB&keyboard.delay=0&keyboard.rate=0&disk.size=1M"
    ),
    "dfu": Work(exchanges.firmware, "bootloader&tolerant", quiet=0),
    "disk": Work(exchanges.blocks, "size=1M"),
    "ethernet": Work(exchanges.frames, "to=echo"),
    "ethernet, ncm": Work(exchanges.ncm_frames, "to=echo&mode=ncm"),
    "ftdi": Work(exchanges.ftdi),
    "gamepad": Work(
        exchanges.reports(13, "01 00 08 00 00 00 00 00 00 00 00 00 00", "00 00 08 00 00 00 00 00 00 00 00 00 00"),
        _LINES,
        lines="tap a\n",
    ),
    "headset": Work(live_exchanges.both_ways, "source=counter&to=file:{folder}/played", quiet=0x82),
    "keyboard": Work(exchanges.keys, "text=aB&delay=0&rate=0"),
    "many-configurations": Work(exchanges.configurations, quiet=0),
    "many-endpoints": Work(exchanges.loops),
    "microphone": Work(live_exchanges.recording, "source=counter", quiet=0x82),
    "midi": Work(exchanges.midi),
    "mouse": Work(
        exchanges.reports(7, "00 0a 00 fb ff 00 00", "00 00 00 00 00 ff 00"), _LINES, lines="move 10 -5\nwheel -1\n"
    ),
    "mtp": Work(exchanges.media, quiet=0x82),
    "printer": Work(exchanges.prints, "to=file:{folder}/paper", quiet=0x82),
    "security-key": Work(exchanges.security_key, needs=("extras",)),
    "serial": Work(exchanges.serial),
    "smartcard": Work(exchanges.smartcard, quiet=0x82),
    "speaker": Work(live_exchanges.playing, "to=file:{folder}/played", quiet=0x81),
    "tablet": Work(
        exchanges.reports(9, "20 e8 03 d0 07 00 00 00 00", "00 e8 03 d0 07 00 00 00 00"),
        _LINES,
        lines="hover 1000 2000\naway\n",
    ),
    "touch": Work(
        exchanges.reports(10, "01 01 00 64 00 c8 00", "01 00 00 64 00 c8 00"),
        _LINES + "&fingers=1",
        lines="tap 100 200\n",
    ),
    "uas": Work(exchanges.uas, "size=1M", quiet=0x83),
    "uas, streams": Work(exchanges.uas_streams, "size=1M&speed=super", quiet=0, needs=("streams",)),
    "usbtmc": Work(exchanges.question, quiet=0x82),
    "zero": Work(exchanges.everything, quiet=0x82),
}
