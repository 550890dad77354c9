"""Text from FIFOs, files and standard input, while the event loop runs."""

import asyncio
import errno
import os

import pytest

from tests.devices.host import turn
from usbferry.device import DeviceError
from usbferry.devices.bridges.feed import Feed


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def feed_of():
    """Opens feeds that are closed at the end."""
    feeds = []

    def make(path):
        feeds.append(Feed(str(path)))
        return feeds[-1]

    yield make
    for feed in feeds:
        feed.close()
        feed.close()


async def characters(feed):
    text = ""
    while (character := await feed.character()) is not None:
        text += character
    return text


async def test_a_file_is_read_to_its_end_and_again_after_rewind(tmp_path, feed_of):
    path = tmp_path / "file"
    path.write_bytes("Grüße\r\nand\rmore\n".encode() * 1000)
    feed = feed_of(path)
    assert await characters(feed) == "Grüße\nand\nmore\n" * 1000
    assert await feed.character() is None
    feed.rewind()
    assert [await feed.line() for _ in range(4)] == ["Grüße", "and", "more", "Grüße"]


async def test_the_last_line_needs_no_end(tmp_path, feed_of):
    path = tmp_path / "file"
    path.write_bytes(b"one\n\ntwo")
    feed = feed_of(path)
    assert [await feed.line() for _ in range(4)] == ["one", "", "two", None]


async def test_an_endless_line_comes_in_pieces(tmp_path, feed_of):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    feed = feed_of(path)
    lengths = []
    while (line := await feed.line()) is not None:
        lengths.append(len(line))
    assert sum(lengths) == 10_000
    assert max(lengths) <= 2 * 4096


async def test_bytes_that_are_no_utf8_are_replaced(tmp_path, feed_of):
    path = tmp_path / "file"
    path.write_bytes(b"a\xffb\xc3")
    assert await characters(feed_of(path)) == "a\ufffdb\ufffd"


async def test_writers_of_a_fifo_come_and_go(fifo, feed_of):
    feed = feed_of(fifo)
    for text in ("first", "second"):
        fifo.write_text(text)  # opens, writes and closes
        assert [await feed.character() for _ in text] == list(text)
    waiting = asyncio.get_running_loop().create_task(feed.character())
    await turn()
    assert not waiting.done()
    fifo.write_text("x")
    assert await waiting == "x"


async def test_a_character_may_come_in_two_writes(fifo, feed_of):
    feed = feed_of(fifo)
    whole = "ß".encode()
    fifo.write_bytes(whole[:1])
    waiting = asyncio.get_running_loop().create_task(feed.character())
    await turn()
    fifo.write_bytes(whole[1:])
    assert await waiting == "ß"


async def test_a_reader_that_gives_up_loses_nothing(fifo, feed_of):
    feed = feed_of(fifo)
    waiting = asyncio.get_running_loop().create_task(feed.line())
    fifo.write_text("half a ")
    while not feed._text:
        await turn()
    waiting.cancel()
    await asyncio.wait([waiting])
    fifo.write_text("line\n")
    assert await feed.line() == "half a line"


async def test_standard_input(monkeypatch, feed_of):
    reading, writing = os.pipe()
    stdin = os.dup(0)
    os.dup2(reading, 0)
    try:
        os.write(writing, b"typed")
        os.close(writing)
        assert await characters(feed_of("-")) == "typed"
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(reading)


async def test_nothing_from_dev_null(feed_of):
    assert await characters(feed_of("/dev/null")) == ""


def test_what_cannot_be_opened_names_the_remedy(tmp_path):
    with pytest.raises(DeviceError, match=f"mkfifo {tmp_path}/none"):
        Feed(f"{tmp_path}/none")
    with pytest.raises(DeviceError, match="is a directory"):
        Feed(str(tmp_path))


def test_what_this_user_may_not_see_is_said_in_words(tmp_path, monkeypatch):
    """To root nothing is hidden, so the system's refusal is made here."""
    hidden, stat = f"{tmp_path}/hidden/pipe", os.stat

    def refuse(path, *words, **more):
        if os.fspath(path) == hidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return stat(path, *words, **more)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(DeviceError, match=f"^{hidden} cannot be read: Permission denied$"):
        Feed(hidden)
