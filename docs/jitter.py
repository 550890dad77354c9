"""The page about bad networks, jitter.md, and its picture, jitter.svg: from jitter.json, which bench/jitter.py wrote.

Part of `make docs`. The picture is written by hand: four small plots with one scale, the part lost over the buffer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
# By the name in the data: what the page calls it, its colour (Okabe and Ito's, told apart by all eyes), and its dashes.
_PATHS: Final = {
    "usbip kernel": ("USB/IP, buffer of the server", "#D55E00", ""),
    "usbip": ("USB/IP, buffer of the importer", "#0072B2", ""),
    "relay": ("relay of USB/IP, its buffer", "#56B4E9", "12 3"),
    "gateway": ("gateway to ferry, its buffer", "#E69F00", "4 6"),
    "ferry": ("ferry", "#009E73", "7 3"),
    "ferry+udp": ("ferry over UDP", "#CC79A7", "2 3"),
    "usbredir": ("usbredir", "#000000", "10 3 2 3"),
}
_WEATHERS: Final = {"jitter": "0 to 20 ms of delay each way", "loss": "1 % of packets lost, 5 ms each way"}
_WAYS: Final = {"in": "recorded", "out": "played"}
_TEXT: Final = """
# Sound over bad networks

<!-- Written by docs/jitter.py from docs/jitter.json: change these, then `make docs`. -->

A device on a bus does not wait. In every millisecond it gives a packet of sound, or takes one, and when no transfer is
there the packet is lost, or there is silence. A driver has some 20 ms of transfers under way, so what holds the next
one up for longer is heard. Virtual devices are kinder: they wait for 100 ms for who is late.

usbferry can keep a stream going by itself, some time ahead of its user. Packets of a microphone or a camera then wait
for their user, which makes them no later than the network does. What is played waits in front of the device, and is
heard later by as much as the buffer is long.

| Where | How | Default |
| --- | --- | --- |
| a server of real devices, for USB/IP and ferry | `usbferry serve --buffer 0.2 usb:1-2` | 0.06 s |
| who uses a device over USB/IP or ferry | `usbip://HOST/1-2?buffer=0.2` | none |
| who uses a device over usbredir | `usbredir://HOST:4000?buffer=0.2` | 0.06 s |

A kernel that is attached directly has no buffer of its own: for such an address `usbferry attach` carries the device
through a relay, which has.

## What is lost

![The part of a headset's milliseconds that was lost, by path and buffer](jitter.svg)

{tables}

Measured by `python bench/jitter.py --seconds {seconds:g} --json docs/jitter.json`: a headset that does not wait, used
by a program that has 20 ms of transfers under way, over a network made of two namespaces. Packets keep their order; one
that TCP loses, it sends again. Delays are what half of the packets had at most, since they were made. On a clear
network nothing was lost on any path, with any buffer, but for usbredir with none: there ten packets come at once, and
all but one of them are too many. The server's buffer is the only one where a kernel is attached directly. A relay is
what `usbferry attach` makes of an address with a buffer; a gateway uses a device over USB/IP, with a buffer, and offers
it over ferry. Both are one more process at the user's end of the network.

## What follows from it

- **A buffer of a server helps as long as a round trip takes less than 20 ms**, which is what a kernel asks for ahead:
  then 60 ms hide the moment in which TCP sends a lost packet again. That is why it is the default: 20 ms are too few,
  and 200 ms make what is played later, and hide no more.
- **Beyond 20 ms, the buffer has to be where the device is used.** There it asks ahead by as much as it is long, so it
  has to be longer than the longest round trip, and one that is not does nothing for what is recorded. Here that is
  40 ms: 60 ms are nearly enough, 200 ms are.
- It costs little: with a buffer a stereo headset took 9.0 % of one core of an EPYC from a server, without 6.7 %; a
  camera 8.7 % and 7.3 %.
- Where both ends have a buffer, what is played waits in both: say `--buffer 0` to such a server. That is why **who uses
  a device over USB/IP or ferry has none by default**: where 60 ms would do, the server has them already, and where they
  would not, only who knows the network can say how many will. One that is too short, 20 ms in both tables, makes what
  is recorded no better, and mostly worse.
- **A relay or a gateway with a buffer is as good as a program that has one**: what it passes on is asked for ahead.
- **Over usbredir 60 ms are the default, too**: its packets come in their own time anyway, so nobody has a buffer but
  the user, and those were enough in both weathers, where 20 ms were not; 200 ms are only later.
- Over UDP, ferry itself sends again what is lost, as soon as something that was sent later has come, about as TCP
  does: the same 60 ms of buffer hide it.
"""


def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((FOLDER / "jitter.json").read_text(encoding="utf-8"))
    return rows


def page() -> str:
    """All of jitter.md."""
    rows = _rows()
    tables = "\n\n".join(
        f"### {title[0].upper()}{title[1:]}\n\n{_table(rows, name)}" for name, title in _WEATHERS.items()
    )
    return _TEXT.lstrip().format(tables=tables, seconds=rows[0]["seconds"])


def _table(rows: list[dict[str, Any]], weather: str) -> str:
    buffers = sorted({row["buffer_ms"] for row in rows})
    lines = [
        f"| Path | | {' | '.join(f'{one} ms' for one in buffers)} |",
        f"| --- | --- |{' ---: |' * len(buffers)}",
    ]
    for path, (title, *_) in _PATHS.items():
        for way, said in _WAYS.items():
            mine = {r["buffer_ms"]: r for r in rows if (r["path"], r["weather"]) == (path, weather)}
            cells = " | ".join(_cell(mine[one], way) for one in buffers)
            lines.append(f"| {title if way == 'in' else ''} | {said} | {cells} |".replace("|  |", "| |"))
    return "\n".join(lines)


def _cell(row: dict[str, Any], way: str) -> str:
    """What was lost, and how late half of the others were at most."""
    lost = row[f"{way}_lost"]
    return f"{'0' if not lost else f'{lost:.2%}' if lost < 0.1 else f'{lost:.0%}'}, {row[f'{way}_p50']:.0f} ms late"


# -- the picture -------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 340, 190  # of one plot
_LEFT, _TOP, _GAP_X, _GAP_Y = 64, 40, 36, 64
_LEGEND = 84  # of what the lines mean, three in a row


def plot() -> str:
    """All of jitter.svg."""
    rows = _rows()
    most = max(0.1, *(row[f"{way}_lost"] for row in rows for way in _WAYS))
    width, height = _LEFT + 2 * _WIDTH + _GAP_X + 16, _TOP + 2 * _HEIGHT + _GAP_Y + 48 + _LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for line, (way, said) in enumerate(_WAYS.items()):
        for column, (weather, title) in enumerate(_WEATHERS.items()):
            x, y = _LEFT + column * (_WIDTH + _GAP_X), _TOP + line * (_HEIGHT + _GAP_Y)
            parts += _frame(x, y, f"{said}: {title}", most, rows)
            for path, (_, colour, dashes) in _PATHS.items():
                mine = {r["buffer_ms"]: r for r in rows if (r["path"], r["weather"]) == (path, weather)}
                points = [
                    (_x(x, n, len(mine)), _y(y, mine[b][f"{way}_lost"], most)) for n, b in enumerate(sorted(mine))
                ]
                parts += _line(points, colour, dashes)
    parts += _legend(height - _LEGEND)
    return "\n".join([*parts, "</svg>", ""])


def _x(left: float, number: int, count: int) -> float:
    return left + 24 + number * (_WIDTH - 48) / (count - 1)


def _y(top: float, part: float, most: float) -> float:
    return top + _HEIGHT * (1 - part / most)


def _frame(x: float, y: float, title: str, most: float, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Title, axes and what they say."""
    yield f'<text x="{x}" y="{y - 12}" font-weight="bold">{title}</text>'
    step = 0.1 if most > 0.25 else 0.02
    for n in range(int(most / step) + 1):
        at = _y(y, n * step, most)
        yield f'<path d="M{x} {at:.1f}h{_WIDTH}" stroke="#ddd"/>'
        yield f'<text x="{x - 6}" y="{at + 4:.1f}" text-anchor="end" fill="#555">{n * step:.0%}</text>'
    buffers = sorted({row["buffer_ms"] for row in rows})
    for n, buffer in enumerate(buffers):
        at = _x(x, n, len(buffers))
        yield f'<text x="{at:.1f}" y="{y + _HEIGHT + 18}" text-anchor="middle" fill="#555">{buffer} ms</text>'


def _line(points: list[tuple[float, float]], colour: str, dashes: str) -> Iterator[str]:
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    yield f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _legend(y: float) -> Iterator[str]:
    yield f'<text x="{_LEFT}" y="{y - 12}" fill="#555">part that was lost, over the length of the buffer</text>'
    for number, (title, colour, dashes) in enumerate(_PATHS.values()):
        x, line = _LEFT + number % 3 * 236, y + 10 + number // 3 * 22
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        yield f'<path d="M{x} {line}h30" stroke="{colour}" stroke-width="2"{dashed}/>'
        yield f'<text x="{x + 38}" y="{line + 4}">{title}</text>'
