"""What a kernel may be told: every byte that vhci_hcd gets is held against what it asked for.

Modelled on vhci_rx.c and usbip_common.c (usbip_recv_iso, usbip_pad_iso, usbip_recv_xbuff) of Linux 6.1, without their
trust: where those believe a number, this one fails. The layouts are written here anew.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# Linux errno numbers that a driver may see as a transfer's status.
STATUSES = {0, -12, -16, -18, -19, -22, -28, -32, -62, -63, -70, -71, -75, -84, -104, -108, -110, -121}


@dataclass(frozen=True)
class Asked:
    """A transfer as the kernel submitted it."""

    is_in: bool
    length: int
    packets: tuple[tuple[int, int], ...] = ()  # offset and length


class Strict:
    """One connection's receiving side. `feed` raises AssertionError for what should never reach a kernel."""

    def __init__(self) -> None:
        self.asked: dict[int, Asked] = {}  # by seqnum, in flight
        self.unlinks: set[int] = set()
        self.answered: list[int] = []
        self.bad = 0  # answers with an error
        self._held = b""

    def feed(self, raw: bytes, *, last: bool = False) -> None:
        """Take bytes. The last ones end a message, and leave nothing in flight."""
        self._held += raw
        while len(self._held) >= 48 and self._message():
            pass
        if last:
            assert self._held == b"", "the connection ended within a message"
            assert not self.asked, f"never answered: {self.asked}"

    def _message(self) -> bool:
        command, seqnum, devid, direction, ep, status = struct.unpack_from(">IIIIIi", self._held)
        assert (devid, direction, ep) == (0, 0, 0)
        assert status in STATUSES, status
        if command == 4:
            assert seqnum in self.unlinks, f"unlink #{seqnum} was not asked for"
            self.unlinks.remove(seqnum)
            self._held = self._held[48:]
            return True
        assert command == 3, f"command {command}"
        assert seqnum in self.asked, f"cannot find a urb of seqnum {seqnum}"
        asked = self.asked[seqnum]
        actual, _, packets, errors = struct.unpack_from(">iiii", self._held, 0x18)
        assert 0 <= actual <= asked.length
        assert packets == len(asked.packets)
        size = actual if asked.is_in else 0
        end = 48 + size + 16 * packets
        if len(self._held) < end:
            return False
        self._packets(asked, self._held[48 + size : end], actual, errors)
        del self.asked[seqnum]
        self.answered.append(seqnum)
        self.bad += status != 0
        self._held = self._held[end:]
        return True

    def _packets(self, asked: Asked, raw: bytes, actual: int, errors: int) -> None:
        total = failed = 0
        for (offset, length), said in zip(asked.packets, struct.iter_unpack(">IIIi", raw), strict=True):
            assert said[:2] == (offset, length), "offsets and lengths are those submitted"
            assert said[2] <= length
            assert offset + said[2] <= asked.length
            assert said[3] in STATUSES
            total += said[2]
            failed += said[3] != 0
        if asked.packets:
            assert (total, failed) == (actual, errors)
        else:
            assert errors == 0
