"""Pictures as payloads: each is cut, gets headers, and comes at its time by the device's clock.

    isochronous    each packet is a payload: a header and as much as fits; empty ones between pictures
    bulk           each picture is one payload, over as many transfers as it takes; between pictures the endpoint NAKs

A picture that is late, as the host took the one before too slowly, comes at once, and the next an interval after it:
none is left out, and no crowd follows a pause. Source: UVC §2.4.3.
"""

from __future__ import annotations

from collections.abc import Callable

from ...usb.transfer import Completion, Transfer
from ...usb.types import Status
from .uvc import CLOCK_HZ, HEADER_BYTES, Info, payload_header


class Payloads:
    """One stream of pictures. `next_picture` gives the next one, or None when there is none yet."""

    def __init__(self, next_picture: Callable[[], bytes | memoryview | None]) -> None:
        self._next_picture = next_picture
        self._left = memoryview(b"")  # of the picture that is on its way
        self._at = 0
        self._info = Info(0)
        self._time_us = 0
        self._interval = 0.0
        self._most = 0
        self._owes_end = False
        self.due = 0.0  # when the next picture is to begin, in the device's time
        self.sent = 0  # pictures

    def start(self, now: float, interval: float, most: int) -> None:
        """A picture each `interval` seconds, from now on; a bulk payload has at most so many bytes."""
        self.due = now
        self._interval, self._most = interval, most
        self._left, self._at = memoryview(b""), 0
        self._info = Info.FRAME_ID  # the first picture has 0
        self._owes_end = False
        self.sent = 0

    def _begin(self, now: float) -> bool:
        """Take the next picture, if it is time for it and there is one."""
        if now < self.due:
            return False
        picture = self._next_picture()
        if picture is None:
            return False
        late = now - self.due
        self.due = self.due + self._interval if late < self._interval else now + self._interval
        self._left, self._at = memoryview(picture), 0
        self._info ^= Info.FRAME_ID
        self._time_us = int(now * CLOCK_HZ)
        self.sent += 1
        return True

    def isochronous(self, transfer: Transfer, now: float, interval: float, most: int) -> Completion:
        """Fill a transfer whose last packet's time is now. They are `interval` seconds apart, each of `most` bytes."""
        packets = transfer.packets
        assert packets is not None
        pieces: list[bytes | memoryview] = []
        at = now - interval * len(packets)
        for packet in packets:
            at += interval
            room = min(packet.length, most) - HEADER_BYTES
            if room <= 0 or (not self._left and not self._begin(at)):
                packet.actual = 0
                continue
            piece, self._left = self._left[:room], self._left[room:]
            pieces += (self._header(at_end=not self._left), piece)
            packet.actual = HEADER_BYTES + len(piece)
        return Completion(Status.OK, b"".join(pieces), packets=packets)

    def bulk(self, transfer: Transfer, now: float) -> Completion | None:
        """Fill a transfer; None until `due`, or while there is no picture.

        The payload ends with a short transfer, or when it is as long as it can be. One that fills its last transfer
        and is not ends with an empty one.
        """
        if self._owes_end:
            self._owes_end = False
            return Completion(Status.OK, b"")
        room = transfer.length
        head = b""
        if not self._left:
            if not self._begin(now):
                return None
            head = self._header(at_end=True)
            self._left = self._left[: self._most - len(head)]
        piece, self._left = self._left[: room - len(head)], self._left[max(0, room - len(head)) :]
        self._at += len(head) + len(piece)
        data = head + bytes(piece) if head else piece
        self._owes_end = not self._left and len(data) == room and self._at < self._most
        return Completion(Status.OK, data)

    def _header(self, *, at_end: bool) -> bytes:
        return payload_header(self._info | Info.END_OF_FRAME if at_end else self._info, self._time_us)
