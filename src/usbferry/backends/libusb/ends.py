"""Flights that libusb is asked to end. It waits for the kernel then, so the handle's thread asks, for many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from .flight import Flight
from .handle import Handle


class Ends:
    """Of one device. A flight is asked to end once, and ends by itself: with its result, if that was sooner."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._unwanted: list[Flight] = []  # that libusb is to be asked to end
        self._asking: asyncio.Future[None] | None = None  # while the thread does so

    def ask_for(self, flights: Iterable[Flight]) -> None:
        """Ask for their end. One may have ended this moment; then libusb says so, and its answer is on its way."""
        for flight in flights:
            if not flight.is_cancelled:
                flight.is_cancelled = True
                self._unwanted.append(flight)
        if self._asking is None:
            self._ask()

    async def asked(self) -> None:
        """Wait until nothing is left to ask for."""
        while self._asking is not None:
            await asyncio.wait([self._asking])

    def _ask(self) -> None:
        """One turn of the thread, for all that came together since its last."""
        flights, self._unwanted = [flight for flight in self._unwanted if not flight.is_over], []
        if not flights:
            return

        def asked(_: object) -> None:
            self._asking = None
            for flight in flights:
                flight.asked()
            self._ask()

        self._asking = self._handle.cancel([flight.ask() for flight in flights])
        self._asking.add_done_callback(asked)
