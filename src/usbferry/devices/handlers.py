"""How a device's class says which of its methods answer what, and what those give."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from ..usb.transfer import Completion, Transfer
from ..usb.types import Status

Reply = bytes | None | asyncio.Future[bytes | None]
F = TypeVar("F", bound=Callable[..., Any])

_OK: Final = Status.OK  # found sooner than by attribute, for every transfer


def endpoint(address: int) -> Callable[[F], F]:
    """Mark a method as the handler of an endpoint's transfers, in every setting that has the endpoint.

    `method(transfer) -> Completion | Future[Completion] | None`.
    """

    def mark(method: F) -> F:
        method._endpoint = address  # type: ignore[attr-defined]
        return method

    return mark


def request(request_type: int, code: int, *, interface_at: int = 0) -> Callable[[F], F]:
    """Mark a method as the handler of a control request, standard ones included; of several when written several times.

    `method(setup, data) -> bytes | None | Future[bytes | None]` gives the data stage of an IN request, cut here to
    its length, and nothing for OUT; it raises Stall to refuse. `data` is what an OUT request brought. `interface_at` is
    the bit of wIndex from which on the interface's number stands there, where that is not 0.
    """

    def mark(method: F) -> F:
        kind = (request_type, code, interface_at)
        method._requests = (*getattr(method, "_requests", ()), kind)  # type: ignore[attr-defined]
        return method

    return mark


def done(transfer: Transfer) -> Completion:
    """An OUT transfer taken whole."""
    return Completion(_OK, b"", transfer.length)


def data(payload: bytes | bytearray | memoryview) -> Completion:
    """An IN transfer's bytes."""
    return Completion(_OK, payload)


def reply_with(transfer: Transfer, payload: bytes | None) -> Completion:
    """The answer to a control transfer whose handler gave this, cut to its length."""
    if transfer.endpoint & 0x80:
        return Completion(Status.OK, (payload or b"")[: transfer.length])
    return Completion(Status.OK, b"", transfer.length)
