"""Turns: what a read sets off is written after it, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio

import pytest

from usbferry.transports import turn


async def test_an_interrupted_turn_is_over() -> None:
    """What was deferred after it went to a list that nobody looked at any more."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turn.take(lambda: turn.defer(interrupted))
    written = asyncio.Event()
    turn.defer(written.set)
    await asyncio.wait_for(written.wait(), 5)


async def test_what_is_deferred_by_what_is_deferred_has_its_turn() -> None:
    said: list[str] = []

    def first() -> None:
        said.append("first")
        turn.defer(lambda: said.append("second"))

    def read() -> None:
        turn.defer(first)
        turn.take(lambda: said.append("within"))

    turn.take(read)
    assert said == ["within", "first", "second"]


async def test_a_buffer_is_put_in_order_behind_all_that_is_written_from_it() -> None:
    """Also behind what was deferred later than that: a flush may look once more at what is there, and lend of it."""
    said: list[str] = []

    def first() -> None:
        turn.at_the_end(lambda: said.append("tidied again"))
        turn.defer(lambda: said.append("second"))

    def read() -> None:
        turn.defer(first)
        turn.at_the_end(lambda: said.append("tidied"))

    turn.take(read)
    turn.at_the_end(lambda: said.append("at once"))
    assert said == ["second", "tidied", "tidied again", "at once"]


async def test_after_an_interrupt_too_it_is_put_in_order() -> None:
    """Or the next read would find no room."""
    said: list[str] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    def read() -> None:
        turn.at_the_end(lambda: said.append("tidied"))
        turn.defer(interrupted)

    with pytest.raises(KeyboardInterrupt):
        turn.take(read)
    assert said == ["tidied"]


async def test_one_that_cannot_be_written_ends_no_other() -> None:
    said: list[str] = []
    failed: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["message"]))

    def read() -> None:
        turn.defer(lambda: 1 / 0)
        turn.defer(lambda: said.append("other"))

    turn.take(read)
    assert (said, failed) == (["other"], ["could not be written"])
