"""Byte streams over bulk endpoints: bounded queues, NAKs, where transfers end, nothing lost in any order of events."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.host import ask, opened, read, turn, write
from tests.devices.stream_host import Reader, pattern, send
from usbferry.devices.bridges.stream import ByteQueue, Stream
from usbferry.devices.virtual import VirtualDevice, endpoint
from usbferry.usb.setup import clear_halt
from usbferry.usb.transfer import Completion, Flags
from usbferry.usb.tree import DeviceDescriptor, Interface
from usbferry.usb.types import Speed, Status

PACKET = 64


class Port(VirtualDevice):
    """A device that is nothing but a stream; the test is its far side."""

    descriptor = DeviceDescriptor(0x1209, 0x0001)
    speed = Speed.FULL

    def __init__(self, limit=256):
        self.stream = Stream(self, 0x81, 0x01, PACKET, limit)
        super().__init__()

    def interfaces(self):
        return (Interface(0, endpoints=(self.bulk(0x01), self.bulk(0x81))),)

    @endpoint(0x01)
    def take(self, transfer):
        return self.stream.take(transfer)

    @endpoint(0x81)
    def give(self, transfer):
        return self.stream.give(transfer)


@pytest.fixture
async def port():
    async with opened(Port()) as device:
        yield device


def now(answer):
    """An answer that has to be there: its bytes."""
    completion = answer if isinstance(answer, Completion) else answer.result()
    assert completion.status == Status.OK
    return bytes(completion.data)


def waits(answer):
    return not isinstance(answer, Completion) and not answer.done()


# -- queues ---------------------------------------------------------------------------------------------------------


def test_a_queue_gives_what_it_was_given_in_order():
    queue = ByteQueue(8)
    queue.put(b"abc")
    queue.put(memoryview(b"def"))
    assert (len(queue), queue.room) == (6, 2)
    assert queue.take(2) == b"ab"
    assert queue.peek(3) == b"cde"
    queue.drop(1)
    assert queue.take(100) == b"def"
    assert (len(queue), queue.room) == (0, 8)


def test_a_queue_goes_over_its_limit_by_one_piece_at_most():
    queue = ByteQueue(8)
    queue.put(bytes(7))
    assert queue.room == 1
    queue.put(bytes(100))
    assert (len(queue), queue.room) == (107, 0)


def test_both_ends_hear_of_each_other():
    heard = []
    queue = ByteQueue(8)
    queue.filled = lambda: heard.append(f"filled {len(queue)}")
    queue.drained = lambda: heard.append(f"drained {len(queue)}")
    queue.put(b"")
    queue.put(b"abcd")
    queue.take(1)
    queue.drop(1)
    queue.clear()
    queue.take(1)
    queue.clear()
    assert heard == ["filled 4", "drained 3", "drained 2", "drained 0"]


def test_what_was_put_may_be_used_again_by_its_owner():
    queue, mine = ByteQueue(), bytearray(b"abc")
    queue.put(mine)
    mine[:] = b"xyz"
    taken = queue.take(3)
    queue.put(b"def")
    assert taken == b"abc"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_queue_that_holds_nothing_is_refused(limit):
    with pytest.raises(ValueError, match="holds nothing"):
        ByteQueue(limit)


# -- to the host ----------------------------------------------------------------------------------------------------


async def test_nothing_to_give_is_a_nak_and_then_comes_at_once(port):
    first, second = port.submit(read(0x81, 512)), port.submit(read(0x81, 512))
    assert waits(first)
    port.stream.to_host.put(b"ab")
    assert now(first) == b"ab"  # in the same call: no timer, no turn of the loop
    assert waits(second)


async def test_what_is_there_is_given_without_waiting_for_more(port):
    port.stream.to_host.put(b"abc")
    assert now(port.submit(read(0x81, 512))) == b"abc"


async def test_more_than_one_transfer_holds_goes_on_in_the_next(port):
    reads = [port.submit(read(0x81, 64)) for _ in range(3)]
    data = pattern(150)
    port.stream.to_host.put(data)
    assert [now(one) for one in reads] == [data[:64], data[64:128], data[128:]]


async def test_whole_packets_in_a_longer_transfer_end_it(port):
    """The zero-length packet is in the completion: on the wire this was 64 bytes and an empty packet."""
    port.stream.to_host.put(bytes(64))
    assert now(port.submit(read(0x81, 128))) == bytes(64)
    assert waits(port.submit(read(0x81, 128)))


async def test_a_full_transfer_is_followed_by_an_empty_one_when_the_data_stops_there(port):
    port.stream.to_host.put(bytes(128))
    assert now(port.submit(read(0x81, 128))) == bytes(128)
    assert now(port.submit(read(0x81, 128))) == b""
    assert waits(port.submit(read(0x81, 128)))


async def test_a_full_transfer_is_not_followed_by_an_empty_one_when_more_came(port):
    port.stream.to_host.put(bytes(128))
    assert now(port.submit(read(0x81, 128))) == bytes(128)
    port.stream.to_host.put(b"more")
    assert now(port.submit(read(0x81, 128))) == b"more"
    assert waits(port.submit(read(0x81, 128)))


async def test_a_full_transfer_that_ends_within_a_packet_is_its_own_end(port):
    port.stream.to_host.put(bytes(10))
    assert now(port.submit(read(0x81, 10))) == bytes(10)
    assert waits(port.submit(read(0x81, 10)))


async def test_an_end_is_owed_to_no_host_that_starts_afresh(port):
    port.stream.to_host.put(bytes(64))
    assert now(port.submit(read(0x81, 64))) == bytes(64)
    port.stream.restart()
    assert waits(port.submit(read(0x81, 64)))


async def test_a_cancelled_read_takes_no_byte_with_it(port):
    first, second = read(0x81, 64), read(0x81, 64)
    answers = port.submit(first), port.submit(second)
    port.cancel(first)
    port.stream.to_host.put(b"abc")
    assert answers[0].result().status == Status.CANCELLED
    assert now(answers[1]) == b"abc"


async def test_bytes_stay_through_a_halt(port):
    port.halt(0x81)
    port.stream.to_host.put(b"abc")
    assert port.submit(read(0x81, 64)).status == Status.STALL
    ask(port, clear_halt(0x81))
    assert now(port.submit(read(0x81, 64))) == b"abc"


async def test_a_short_read_where_short_is_forbidden_keeps_its_data(port):
    port.stream.to_host.put(b"abc")
    completion = port.submit(read(0x81, 64, Flags.SHORT_NOT_OK))
    assert (completion.status, bytes(completion.data)) == (Status.SHORT, b"abc")


# -- from the host --------------------------------------------------------------------------------------------------


async def test_a_full_queue_is_a_nak_until_there_is_room(port):
    answers = [port.submit(write(0x01, bytes([i]) * 100)) for i in range(4)]
    assert [waits(answer) for answer in answers] == [False, False, False, True]  # 256 bytes, and the piece over it
    assert port.stream.from_host.take(300) == b"".join(bytes([i]) * 100 for i in range(3))
    assert not waits(answers[3])
    assert port.stream.from_host.take(300) == bytes([3]) * 100


async def test_a_cancelled_write_leaves_no_byte(port):
    port.submit(write(0x01, bytes(256)))
    parked, after = write(0x01, b"parked"), write(0x01, b"after")
    answers = port.submit(parked), port.submit(after)
    port.cancel(parked)
    assert (answers[0].result().status, answers[0].result().actual) == (Status.CANCELLED, 0)
    assert port.stream.from_host.take(256) == bytes(256)
    assert now(answers[1]) == b""
    assert port.stream.from_host.take(256) == b"after"


async def test_a_write_longer_than_the_queue_is_taken_when_there_is_any_room(port):
    assert now(port.submit(write(0x01, bytes(10_000)))) == b""
    assert len(port.stream.from_host) == 10_000
    assert waits(port.submit(write(0x01, b"x")))


async def test_an_empty_write_is_taken(port):
    assert port.submit(write(0x01, b"")).status == Status.OK
    assert len(port.stream.from_host) == 0


# -- any order of events --------------------------------------------------------------------------------------------

SIZES = st.lists(st.integers(0, 300), max_size=30)


@given(pieces=SIZES, lengths=st.lists(st.sampled_from([1, 63, 64, 65, 128, 512]), min_size=1), depth=st.integers(1, 5))
def test_what_is_put_arrives_and_a_host_that_reads_until_a_short_packet_gets_its_end(pieces, lengths, depth):
    asyncio.run(_arrives(pieces, lengths, depth))


async def _arrives(pieces, lengths, depth):
    async with opened(Port()) as port:
        data, at, got = pattern(sum(pieces)), 0, b""
        queue = port.stream.to_host
        flying, asked = [], 0

        def post():
            nonlocal asked
            while len(flying) < depth:
                length = lengths[asked % len(lengths)]
                flying.append((length, port.submit(read(0x81, length))))
                asked += 1

        ended = True
        for piece in [*pieces, 0]:
            queue.put(data[at : at + piece])
            at += piece
            post()
            while flying and not waits(flying[0][1]):
                length, answer = flying.pop(0)
                chunk = now(answer)
                got += chunk
                ended = len(chunk) < length or length % PACKET != 0
                post()
            assert ended  # nothing more came, and the host knows
        assert got == data


@given(
    writes=st.lists(st.integers(0, 300), max_size=30),
    takes=st.lists(st.integers(1, 300), min_size=1),
    limit=st.integers(1, 400),
)
def test_what_is_acknowledged_arrives_whatever_pace_the_far_side_has(writes, takes, limit):
    asyncio.run(_acknowledged(writes, takes, limit))


async def _acknowledged(writes, takes, limit):
    async with opened(Port(limit)) as port:
        queue, got = port.stream.from_host, b""
        pieces = [pattern(size, seed) for seed, size in enumerate(writes)]
        answers = [port.submit(write(0x01, piece)) for piece in pieces]
        for count in takes:
            assert len(queue) <= limit + max(writes, default=0)
            got += queue.take(count)
            done = sum(not waits(answer) for answer in answers)
            assert all(not waits(answer) for answer in answers[:done])
            assert got + queue.peek(len(queue)) == b"".join(pieces[:done])


async def test_a_queue_that_both_sides_work_at_in_one_call_keeps_its_order(port):
    """A far side that puts whenever it hears of room, and a host that reads whenever it hears of bytes."""
    data, at = pattern(20_000), 0

    def refill():
        nonlocal at
        while port.stream.to_host.room and at < len(data):
            piece = data[at : at + 100]
            at += len(piece)
            port.stream.to_host.put(piece)

    port.stream.to_host.drained = refill
    reader = Reader(port, 128, 4)
    refill()
    assert await reader.until(len(data)) == data
    await reader.stop()


async def test_detached_in_the_middle_only_what_was_acknowledged_is_taken(port):
    data = pattern(5000)
    sending = asyncio.get_running_loop().create_task(send(port, data, [100]))
    await turn()
    await port.close()
    acknowledged = await sending
    assert 256 <= acknowledged < len(data)
    assert port.stream.from_host.take(len(data)) == data[:acknowledged]
