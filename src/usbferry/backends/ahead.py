"""Isochronous streams that are kept going at a device, whatever the network to its user does.

    IN     device ==packets==> asked for all the time ==> what waits ==> the user's transfers, when they come
    OUT    the user's transfers ==> said to be done while less than `seconds` are not played ==> device

A device's bus does not wait: an interval in which no transfer is there is lost. Kernels queue some 20 ms, so whatever
holds a user's next transfer up for longer is heard. With a stream of our own, IN packets wait for their user, and OUT
packets for their time; playing begins when there are enough, or no more come.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..device import Device, Promise
from ..devices.clock import Clock, Timer
from ..usb.transfer import Completion, Flags, IsoPacket, Transfer, filled_from
from ..usb.types import Status

Answer = Completion | asyncio.Future[Completion]
log: Final = logging.getLogger(__name__)
_AT_LEAST: Final = 2  # transfers at the device, or there is a gap between them
_MOST: Final = 256  # transfers at the device: what one buffer's seconds of the shortest ones come to
_TRANSFER_SECONDS: Final = 0.004  # of packets that one of ours asks for at least: drivers' own may have a single one
_FORGOTTEN_SECONDS: Final = 2.0  # of packets that nobody fetches, after which the device is not asked any more


@dataclass(slots=True)
class Counts:
    """What became of packets that were not where they belonged in time."""

    dropped: int = 0  # IN: waited for their user for longer than the buffer is
    dry: int = 0  # OUT: how often the device had nothing to play, and was to get more


class AheadIn:
    """One IN endpoint: transfers for packets like the user's are always with the device, for `seconds` of them.

    Of packets that wait longer than that for a transfer the oldest are dropped.
    """

    def __init__(self, device: Device, endpoint: int, interval: float, seconds: float, counts: Counts) -> None:
        self._device, self._endpoint = device, endpoint
        self._interval = interval  # seconds from packet to packet
        self._most = max(1, round(seconds / interval))  # packets that wait, and that are asked for
        self._counts = counts
        self._few = min(max(1, round(_TRANSFER_SECONDS / interval)), max(1, self._most // _AT_LEAST))
        self._each = self._few  # packets of a transfer
        self._length = 0  # bytes of each
        self._flags = 0
        self._flying: set[Transfer] = set()  # of the run there is now; none while it stands
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._waiting: dict[Transfer, Promise] = {}
        self._unfetched = 0  # packets dropped since the user last asked
        self._is_asking = False

    def submit(self, transfer: Transfer) -> Answer:
        assert transfer.packets is not None
        self._each = max(self._few, len(transfer.packets))
        self._length = max(packet.length for packet in transfer.packets)
        self._flags = transfer.flags | Flags.ISO_ASAP
        self._unfetched = 0
        if not self._waiting and len(self._arrived) >= len(transfer.packets):
            answer: Answer = filled_from(self._arrived, transfer)
        else:
            answer = self._waiting[transfer] = Promise()
        self._ask()
        return answer

    def cancel(self, transfer: Transfer) -> bool:
        """End one that waits here. A user who takes back all wants no more: the stream ends."""
        promise = self._waiting.pop(transfer, None)
        if promise is not None:
            if not self._waiting:
                self.stop()
            promise.fulfil(undone(transfer, Status.CANCELLED))
        return promise is not None

    def stop(self, status: int = Status.SHUTDOWN) -> None:
        """Forget what came; what waits ends with `status`. The next transfer begins anew."""
        flying, self._flying = self._flying, set()
        self._arrived.clear()
        for transfer in flying:
            self._device.cancel(transfer)
        waiting, self._waiting = self._waiting, {}
        for transfer, promise in waiting.items():
            promise.fulfil(undone(transfer, status))

    def _ask(self) -> None:
        """Have enough transfers at the device. One that it answers at once is an error, or no isochronous device."""
        if self._is_asking:
            return
        self._is_asking = True
        wanted = min(max(_AT_LEAST, math.ceil(self._most / self._each)), _MOST)
        try:
            while len(self._flying) < wanted:
                transfer = self._made()
                self._flying.add(transfer)
                answer = self._device.submit(transfer)
                if isinstance(answer, Completion):
                    self._ended(transfer, answer)
                    return
                when_ended(answer, partial(self._ended, transfer))
        finally:
            self._is_asking = False

    def _made(self) -> Transfer:
        length = self._length
        packets = [IsoPacket(number * length, length) for number in range(self._each)]
        return Transfer(self._endpoint, self._each * length, b"", b"", self._flags, packets)

    def _ended(self, transfer: Transfer, completion: Completion) -> None:
        if transfer not in self._flying:
            return  # of a run that is over
        self._flying.discard(transfer)
        if completion.status != Status.OK or completion.packets is None:
            self.stop(completion.status or Status.FAILED)
            return
        self._take(completion)
        if self._unfetched * self._interval > _FORGOTTEN_SECONDS:
            self.stop()
        else:
            self._ask()

    def _take(self, completion: Completion) -> None:
        data, at = bytes(completion.data), 0
        for packet in completion.packets or ():
            self._arrived.append((packet.status, data[at : at + packet.actual]))
            at += packet.actual
        while self._waiting:
            transfer = next(iter(self._waiting))
            if len(self._arrived) < len(transfer.packets or ()):
                return
            self._waiting.pop(transfer).fulfil(filled_from(self._arrived, transfer))
        while len(self._arrived) > self._most:
            self._arrived.popleft()
            self._unfetched += 1
            self._counts.dropped += 1


class _Piece:
    """A transfer of the user's, and the device's copy of it."""

    __slots__ = ("copy", "promise", "seconds", "transfer")

    def __init__(self, transfer: Transfer, seconds: float) -> None:
        packets = [IsoPacket(packet.offset, packet.length) for packet in transfer.packets or ()]
        flags = transfer.flags | Flags.ISO_ASAP
        self.transfer = transfer
        self.copy = Transfer(transfer.endpoint, transfer.length, bytes(transfer.data), b"", flags, packets)
        self.promise: Promise | None = Promise()  # None once the user was told
        self.seconds = seconds  # that its packets last

    def tell(self, completion: Completion) -> None:
        promise, self.promise = self.promise, None
        if promise is not None:
            promise.fulfil(completion)


class AheadOut:
    """One OUT endpoint. Its user is told at the packets' own pace while they gather, then as the device plays them.

    `drained` is called whenever the device has played all that there is, or has failed.
    """

    def __init__(
        self,
        device: Device,
        interval: float,
        seconds: float,
        counts: Counts,
        clock: Clock,
        drained: Callable[[], None] = lambda: None,
    ) -> None:
        self._device, self._interval, self._seconds = device, interval, seconds
        self._counts, self._clock, self._drained = counts, clock, drained
        self._untold: deque[_Piece] = deque()
        self._gathered: deque[_Piece] = deque()  # not with the device yet
        self._flying: dict[Transfer, _Piece] = {}  # with it, by its copy
        self._ahead = 0.0  # seconds that the user was told of, and the device has not played
        self._is_playing = self._has_played = False
        self._error: int = Status.OK  # of packets whose user had been told already
        self._begin_at = self._due = 0.0  # while it gathers: when it begins at the latest, when the next is told
        self._timer: Timer | None = None

    @property
    def is_idle(self) -> bool:
        """Whether the device has all been played."""
        return not (self._flying or self._gathered)

    def submit(self, transfer: Transfer) -> Answer:
        piece = _Piece(transfer, len(transfer.packets or ()) * self._interval)
        promise = piece.promise
        assert promise is not None
        self._untold.append(piece)
        if self._is_playing:
            self._play(piece)
        else:
            self._gather(piece)
        self._tell()
        return promise

    def cancel(self, transfer: Transfer) -> bool:
        """End one that was not told. One that the device has ends when that says so."""
        piece = next((one for one in self._untold if one.transfer is transfer), None)
        if piece is None:
            return False
        if piece in self._gathered:
            self._gathered.remove(piece)
            self._untold.remove(piece)
            piece.tell(undone(transfer, Status.CANCELLED))
        else:
            self._device.cancel(piece.copy)
        return True

    def drain(self) -> bool:
        """Play what has gathered, as nothing more will come; whether there is anything to wait for."""
        if self._gathered:
            self._begin()
        self._has_played = False
        return not self.is_idle

    def stop(self, status: int = Status.SHUTDOWN) -> None:
        """Forget what is not played; who was not told hears `status`."""
        self._wake(None)
        flying, self._flying = self._flying, {}
        untold, self._untold = self._untold, deque()
        self._gathered.clear()
        self._is_playing = self._has_played = False
        self._ahead, self._error = 0.0, Status.OK
        for copy in flying:
            self._device.cancel(copy)
        for piece in untold:
            piece.tell(undone(piece.transfer, status))

    # -- while it gathers ---------------------------------------------------------------------------------------------

    def _gather(self, piece: _Piece) -> None:
        now = self._clock.now()
        if not self._gathered:
            self._counts.dry += self._has_played
            self._begin_at, self._due = now + self._seconds, now
        self._gathered.append(piece)
        if sum(one.seconds for one in self._gathered) >= self._seconds:
            self._begin()
        elif self._timer is None:
            self._wake(self._begin_at)  # at the latest

    def _wake(self, when: float | None) -> None:
        """Have `_timed` called then, or not at all."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_at(when, self._timed) if when is not None else None

    def _timed(self) -> None:
        self._timer = None
        if self._clock.now() >= self._begin_at:
            self._begin()
        self._tell()

    # -- while it plays -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._wake(None)
        self._is_playing = self._has_played = True
        gathered, self._gathered = self._gathered, deque()
        for piece in gathered:
            if self._is_playing:  # else the device has just refused, and who waited was told
                self._play(piece)

    def _play(self, piece: _Piece) -> None:
        self._flying[piece.copy] = piece
        answer = self._device.submit(piece.copy)
        if isinstance(answer, Completion):
            self._ended(piece.copy, answer)
        else:
            when_ended(answer, partial(self._ended, piece.copy))

    def _ended(self, copy: Transfer, completion: Completion) -> None:
        piece = self._flying.pop(copy, None)
        if piece is None:
            return  # it was stopped
        if completion.status not in (Status.OK, Status.CANCELLED):
            self._ended_untold(piece, completion)
            self.stop(completion.status)
            self._drained()
            return
        if piece.promise is not None:
            self._ended_untold(piece, completion)
        else:
            self._ahead -= piece.seconds
            self._error = self._error or next((p.status for p in completion.packets or () if p.status), Status.OK)
        self._is_playing = bool(self._flying)
        self._tell()
        if self.is_idle:
            self._ahead = 0.0
            self._drained()

    def _ended_untold(self, piece: _Piece, completion: Completion) -> None:
        if piece.promise is not None:
            self._untold.remove(piece)
            piece.tell(completion)

    def _tell(self) -> None:
        """Tell the user of all that may be: what is ahead of the device stays within the buffer."""
        while self._untold:
            piece = self._untold[0]
            if self._ahead + piece.seconds > self._seconds + 1e-9:
                return
            if not self._is_playing:
                due = self._due + piece.seconds
                if self._clock.now() < due:
                    self._wake(min(self._begin_at, due))
                    return
                self._due = due
            self._untold.popleft()
            self._ahead += piece.seconds
            error, self._error = self._error, Status.OK
            piece.tell(_played(piece.transfer, error))
        if self._gathered:
            self._wake(self._begin_at)


def when_ended(answer: asyncio.Future[Completion], call: Callable[[Completion], object]) -> None:
    """Have a device's answer given to `call`: at once where that can be, else in a turn of the loop."""
    if isinstance(answer, Promise) and not answer.done():
        answer.hear(call)
    else:
        answer.add_done_callback(lambda done: call(result_of(done)))


def result_of(done: asyncio.Future[Completion]) -> Completion:
    """A device that fails over a transfer is a failed transfer."""
    if done.cancelled() or (error := done.exception()) is not None:
        log.error("a device failed over a transfer", exc_info=None if done.cancelled() else error)
        return Completion(Status.FAILED)
    return done.result()


def undone(transfer: Transfer, status: int) -> Completion:
    """No packet of it was moved."""
    packets = [IsoPacket(p.offset, p.length, 0, Status.NOT_DONE) for p in transfer.packets or ()]
    return Completion(status, b"", 0, packets)


def _played(transfer: Transfer, error: int) -> Completion:
    packets = [IsoPacket(p.offset, p.length, 0 if error else p.length, error) for p in transfer.packets or ()]
    return Completion(Status.OK, b"", sum(p.actual for p in packets), packets)
