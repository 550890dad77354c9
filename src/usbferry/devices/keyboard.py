"""A keyboard that types: text from the command line, from a pipe, or from Python, in any of the layouts.

    keyboard = Keyboard(layout="de")
    keyboard.type("Grüße\\n")            # key by key, as fast as the host fetches and `rate` allows
    keyboard.press("ctrl", "alt", "del")  # held until
    keyboard.release()
    await keyboard.flushed()              # the host has it all

Boot keyboard, HID 1.11 appendix B.1: six keys and the modifiers, LEDs over control or an interrupt OUT endpoint.
With media keys it has two reports: 1 is the keyboard's, without the byte of boot protocol that means nothing, so that
it fits a packet of low speed with its id; 2 is that of the media keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from enum import IntFlag
from typing import Final

from ..usb.tree import DeviceDescriptor
from ..usb.types import Speed
from .bridges.feed import Feed
from .chapter9 import Stall
from .clock import Clock
from .hid.device import BOOT
from .hid.driven import DrivenHid
from .hid.keys import LAST_MEDIA, MODIFIERS, is_media, usage_of
from .hid.layouts import LAYOUTS, Untypable
from .hid.reports import INPUT, OUTPUT, Page, application, array, padding, report, variables

log: Final = logging.getLogger(__name__)
_ROLL_OVER: Final = 0x01  # Keyboard ErrorRollOver in every place: more keys are down than a report holds
_PLACES: Final = 6
_KEYS, _MEDIA = 1, 2  # report ids
_MEDIA_PLACES: Final = 3


class Leds(IntFlag):
    """The lights of a keyboard, HID Usage Tables §11, as the bits of its output report."""

    NONE = 0
    NUM_LOCK = 0x01
    CAPS_LOCK = 0x02
    SCROLL_LOCK = 0x04
    COMPOSE = 0x08
    KANA = 0x10

    def __str__(self) -> str:
        return ", ".join(str(one.name).replace("_", " ").lower() for one in Leds if one and one in self) or "none"


Keys = frozenset[int]


class Keyboard(DrivenHid[Keys]):
    """`text` is typed to each host, from `delay` seconds after it began to read the keyboard.

    `pipe` is a FIFO, a file, or `-` for standard input, typed as it comes. `rate` is keys per second at most, 0 for as
    fast as the host fetches. With `interrupt_out` the LEDs have an endpoint of their own. `media` gives it media keys,
    and `taps` are keys that follow the text, one after the other: `taps=mute,volumeup`.
    """

    # 1209:0001 to 1209:0010 are pid.codes' numbers for tests: nobody's product, so no driver or rule is meant for it.
    descriptor = DeviceDescriptor(0x1209, 0x0001)
    product = "Keyboard"
    boot = 1
    default_idle = 0.5  # §7.2.4: "recommended default idle rate" of keyboards
    output_bytes = 1
    report_descriptor = application(
        Page.DESKTOP,
        0x06,  # Keyboard
        variables(INPUT, Page.KEYBOARD, range(0xE0, 0xE8)),  # the modifiers
        padding(INPUT, 8),
        variables(OUTPUT, Page.LED, range(1, 6)),
        padding(OUTPUT, 3),
        array(INPUT, Page.KEYBOARD, range(0xDE), count=_PLACES),
    )

    _report_descriptor_with_media = application(
        Page.DESKTOP,
        0x06,
        report(_KEYS),
        variables(INPUT, Page.KEYBOARD, range(0xE0, 0xE8)),
        variables(OUTPUT, Page.LED, range(1, 6)),
        padding(OUTPUT, 3),
        array(INPUT, Page.KEYBOARD, range(0xDE), count=_PLACES),
    ) + application(
        Page.CONSUMER,
        0x01,  # Consumer Control
        report(_MEDIA),
        array(INPUT, Page.CONSUMER, range((LAST_MEDIA & 0xFFFF) + 1), count=_MEDIA_PLACES, bits=16),
    )

    def __init__(
        self,
        *,
        layout: str = "us",
        text: str = "",
        pipe: str = "",
        delay: float = 1.0,
        rate: float = 50.0,
        media: bool = False,
        taps: str = "",
        interrupt_out: bool = False,
        speed: Speed = Speed.LOW,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"there is no layout {layout!r}; there are: {', '.join(LAYOUTS)}")
        if not 0 <= rate < float("inf"):
            raise ValueError("rate is 0 or more")
        self.layout = LAYOUTS[layout]
        self.country = self.layout.country
        self.speed = speed
        self.serial = serial
        self.interrupt_out = interrupt_out
        self.media = media
        if media:
            self.report_descriptor = self._report_descriptor_with_media
            self.report_ids = (_KEYS, _MEDIA)
            self.output_bytes = 2
        self._taps = [usage_of(name, media=media) for name in taps.split(",") if name]
        self.leds = Leds.NONE
        self.leds_changed: Callable[[Leds], None] | None = None
        self._pause = 0.5 / rate if rate else 0.0  # pressing and releasing each take one
        self._text = text
        self._told: Keys = frozenset()  # what the host knows to be down
        self._down: Keys = frozenset()  # what is down once it has fetched the queue
        self.layout.strokes(text)  # raises Untypable now rather than when a host is there
        super().__init__(pipe=pipe, delay=delay, clock=clock)

    # -- for people ---------------------------------------------------------------------------------------------------

    def type(self, text: str) -> None:
        """Write `text`, key by key, beside what is held. Raises Untypable, and then types nothing."""
        for stroke in self.layout.strokes(text):
            self.queue(self._down | {stroke.key, *stroke.held}, self._pause)
            self.queue(self._down, self._pause)

    def press(self, *keys: str | int) -> None:
        """Hold keys down, all at once. By name, "a", "f1", "ctrl", "enter" (see `hid.keys`), or by HID usage.

        Names are those of the American layout: a key is the same whatever is printed on it. Media keys are such as
        "mute" and "volumeup", three at a time. Raises ValueError.
        """
        self._hold(self._down.union(self._usages(keys)))

    def release(self, *keys: str | int) -> None:
        """Let go of keys; without a name of all."""
        self._hold(self._down.difference(self._usages(keys)) if keys else frozenset())

    def tap(self, *keys: str | int) -> None:
        """Press keys together, and let go of them."""
        self.press(*keys)
        self.release(*keys)

    def _usages(self, keys: Iterable[str | int]) -> list[int]:
        return [usage_of(key, media=self.media) for key in keys]

    def _hold(self, keys: Keys) -> None:
        self._down = keys
        self.queue(keys, self._pause)

    # -- reports ------------------------------------------------------------------------------------------------------

    def encode(self, change: Keys) -> tuple[bytes, Keys | None]:
        """Each report tells its own keys; boot protocol has no media keys."""
        before, self._told = self._told, change
        if not self._has_ids or _media(before) == _media(change):
            return self.current_report(), None
        if before - _media(before) == change - _media(change):
            return self.report_of(_MEDIA), None
        self._told = (change - _media(change)) | _media(before)
        return self.current_report(), change

    def current_report(self) -> bytes:
        """The boot report is the same as the other, appendix B.1, unless that has an id."""
        modifiers = sum(1 << key - MODIFIERS[0] for key in self._told if key in MODIFIERS)
        keys = bytes(sorted(key for key in self._told if key not in MODIFIERS and not is_media(key)))
        if len(keys) > _PLACES:
            keys = bytes((_ROLL_OVER,)) * _PLACES
        head = (_KEYS, modifiers) if self._has_ids else (modifiers, 0)
        return bytes(head) + keys.ljust(_PLACES, b"\0")

    def report_of(self, report_id: int) -> bytes:
        if report_id != _MEDIA:
            return self.current_report()
        usages = sorted(_media(self._told))[:_MEDIA_PLACES]
        words = b"".join((usage & 0xFFFF).to_bytes(2, "little") for usage in usages)
        return bytes((_MEDIA,)) + words.ljust(2 * _MEDIA_PLACES, b"\0")

    @property
    def _has_ids(self) -> bool:
        return bool(self.report_ids) and self.protocol != BOOT

    def output(self, report: bytes) -> None:
        head = bytes((_KEYS,)) if self._has_ids else b""
        if len(report) != len(head) + 1 or not report.startswith(head):
            raise Stall
        leds = Leds(report[-1] & 0x1F)
        if leds == self.leds:
            return
        self.leds = leds
        log.info("%s: LEDs %s", self.product, leds)
        if self.leds_changed is not None:
            self.leds_changed(leds)

    def current_output(self) -> bytes:
        return bytes((_KEYS, self.leds) if self._has_ids else (self.leds,))

    # -- its life -----------------------------------------------------------------------------------------------------

    async def opened(self) -> None:
        self.type(self._text)
        for usage in self._taps:
            self.tap(usage)
        await super().opened()

    async def follow(self, feed: Feed) -> None:
        """Type what comes, each character when the one before is typed."""
        while (character := await feed.character()) is not None:
            try:
                self.type(character)
            except Untypable as error:
                log.warning("%s: %s", self.product, error)
            else:
                await self.flushed()

    def was_reset(self) -> None:
        super().was_reset()
        self.leds = Leds.NONE

    async def closed(self) -> None:
        await super().closed()
        self._told = self._down = frozenset()


def _media(keys: Keys) -> Keys:
    return frozenset(key for key in keys if is_media(key))
