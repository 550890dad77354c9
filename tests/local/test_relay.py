"""A relay between a server that lies and a kernel that would believe it."""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.hand import Peer, bad_server, descriptors, ret_submit
from tests.local.strict import Asked, Strict
from tests.protocols.usbip.wire import IN, OUT, submit
from tests.server.fakes import Puppet
from usbferry.backends import handover
from usbferry.device import Claimant
from usbferry.local.relay import NAME, Counted, Counts, Relay
from usbferry.registry import open_source
from usbferry.usb.setup import Request
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has vhci_hcd")

DEVID = 0x10002
PACKETS = ((0, 100), (100, 0), (100, 300))
# What the kernel asks for, and the server may lie about: seqnum -> endpoint and transfer.
TRANSFERS = {
    11: (1, Asked(True, 512)),
    12: (1, Asked(False, 512)),
    13: (3, Asked(True, 400, PACKETS)),
    14: (3, Asked(False, 200, ((0, 100), (100, 100)))),
    15: (4, Asked(True, 64)),
}
SET_INTERFACE = bytes.fromhex("01 0b 01 00 00 00 00 00")

Answer = Callable[[int, Asked], bytes]


def command(seqnum: int) -> bytes:
    ep, asked = TRANSFERS[seqnum]
    payload = b"" if asked.is_in else bytes(asked.length)
    return submit(seqnum, IN if asked.is_in else OUT, ep, asked.length, payload, devid=DEVID, iso=asked.packets)


def reply(
    seqnum: int,
    *,
    command: int = 3,
    status: int = 0,
    actual: int = 0,
    packets: int = 0,
    errors: int = 0,
    rest: bytes = b"",
) -> bytes:
    """RET_SUBMIT with whatever is said in it."""
    return struct.pack(">II12xiiiii8x", command, seqnum, status, actual, 0, packets, errors) + rest


def iso(*packets: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack(">IIIi", *packet) for packet in packets)


def honest(seqnum: int, asked: Asked) -> bytes:
    sizes = [size for _, size in asked.packets]
    actual = sum(sizes) if sizes else asked.length
    rest = bytes(actual) if asked.is_in else b""
    return reply(seqnum, actual=actual, packets=len(sizes), rest=rest + iso(*[(o, n, n, 0) for o, n in asked.packets]))


async def lying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: dict[int, Answer]) -> None:
    """A server that is right about the device, says of TRANSFERS what `answers` has, and closes after the last."""
    await Peer(reader, writer).imported()
    kinds = {(asked.is_in, asked.length, len(asked.packets), ep): n for n, (ep, asked) in TRANSFERS.items()}
    table = descriptors()
    while kinds:
        head = await reader.readexactly(48)
        word, seqnum, _, direction, ep, _, length, _, packets, _ = struct.unpack_from(">IIIIIIiiii", head)
        if word != 1:
            continue
        await reader.readexactly((0 if direction else length) + 16 * max(packets, 0))
        if ep == 0:
            setup = head[40:48]
            is_get = setup[1] == Request.GET_DESCRIPTOR
            data = table.get((setup[3], setup[2]), b"")[: int.from_bytes(setup[6:], "little")] if is_get else b""
            writer.write(ret_submit(seqnum, data))
            continue
        known = kinds.pop((bool(direction), length, packets, ep))
        writer.write(answers.get(known, honest)(seqnum, TRANSFERS[known][1]))
    writer.close()


async def talk(answers: dict[int, Answer]) -> Strict:
    """Every transfer of TRANSFERS by way of a relay, until all are answered; what the kernel made of it."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await lying(reader, writer, answers)

    loop = asyncio.get_running_loop()
    strict = Strict()
    async with asyncio.timeout(20), bad_server(script) as address, asyncio.TaskGroup() as tasks:
        source = open_source(address)
        relay = Relay(address, await source.open("1-1", Claimant("test")))
        tasks.create_task(relay.run())
        with relay.theirs as kernel:
            await handover.claim_on(kernel, NAME, "the relay")
            strict.asked = {10: Asked(False, 0), **{n: asked for n, (_, asked) in TRANSFERS.items()}}
            await loop.sock_sendall(kernel, submit(10, OUT, 0, setup=SET_INTERFACE, devid=DEVID))
            for seqnum in TRANSFERS:
                await loop.sock_sendall(kernel, command(seqnum))
            while got := await loop.sock_recv(kernel, 1 << 16):
                strict.feed(got)
            strict.feed(b"", last=True)
            relay.stop()
        await source.close()
    assert sorted(strict.answered) == [10, *TRANSFERS]
    return strict


async def test_an_honest_server_is_believed():
    strict = await talk({})
    assert strict.bad == 0


LIES: dict[str, tuple[int, Answer]] = {
    "more bytes than asked for": (11, lambda n, asked: reply(n, actual=513, rest=bytes(513))),
    "2 GiB": (11, lambda n, asked: reply(n, actual=0x7FFFFFFF, rest=bytes(4096))),
    "fewer than none": (11, lambda n, asked: reply(n, actual=-1)),
    "more written than sent": (12, lambda n, asked: reply(n, actual=513)),
    "an unknown transfer": (11, lambda n, asked: reply(n + 1000, actual=0)),
    "answered twice": (11, lambda n, asked: 2 * reply(n, actual=0)),
    "an unlink that was not asked for": (11, lambda n, asked: reply(n, command=4, status=-104)),
    "a command": (11, lambda n, asked: reply(n, command=1)),
    "packets in bulk": (11, lambda n, asked: reply(n, actual=4, packets=1, errors=1, rest=bytes(4))),
    "a billion packets in bulk": (11, lambda n, asked: reply(n, actual=0, packets=0x3FFFFFFF)),
    "a positive status": (11, lambda n, asked: reply(n, status=32)),
    "a status of no meaning": (11, lambda n, asked: reply(n, status=-0x80000000)),
    "a status that means it goes on": (11, lambda n, asked: reply(n, status=-115)),
    "errors without packets": (11, lambda n, asked: reply(n, errors=-1)),
    "no packets": (13, lambda n, asked: reply(n, packets=0)),
    "fewer packets": (13, lambda n, asked: reply(n, packets=2, rest=iso((0, 100, 0, 0), (100, 0, 0, 0)))),
    "more packets": (13, lambda n, asked: reply(n, packets=4, rest=iso(*4 * [(0, 0, 0, 0)]))),
    "a billion packets": (13, lambda n, asked: reply(n, packets=0x3FFFFFFF, rest=bytes(4096))),
    "fewer packets than none": (13, lambda n, asked: reply(n, packets=-1)),
    "offsets outside": (13, lambda n, asked: reply(n, packets=3, rest=iso(*3 * [(0xFFFFFF00, 0x200, 0, 0)]))),
    "a packet too full": (13, lambda n, asked: reply(n, actual=101, packets=3, rest=bytes(101) + full(101, 0, 0))),
    "a packet of 4 GiB": (13, lambda n, asked: reply(n, actual=0, packets=3, rest=full(0xFFFFFFFF, 1, 0))),
    "packets of another sum": (13, lambda n, asked: reply(n, actual=300, packets=3, rest=bytes(300) + full(1, 0, 0))),
    "packets that were not sent": (14, lambda n, asked: reply(n, actual=201, packets=2, rest=full(100, 101))),
    "wrong number of errors": (13, lambda n, asked: reply(n, packets=3, errors=-7, rest=full(0, 0, 0))),
    "no answer at all": (15, lambda n, asked: b"\0" * 47),
}


def full(*actual: int) -> bytes:
    """Packets of which so much was done."""
    return iso(*[(0, 0, count, 0) for count in actual])


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_does_not_reach_the_kernel(lie):
    known, answer = LIES[lie]
    await talk({known: answer})


@pytest.mark.parametrize("lie", LIES)
def test_without_a_relay_it_would(lie):
    """The checker sees each of them."""
    known, answer = LIES[lie]
    strict = Strict()
    strict.asked = {known: TRANSFERS[known][1]}
    with pytest.raises(AssertionError):
        strict.feed(answer(known, TRANSFERS[known][1]), last=True)


# Numbers that have been too much for somebody.
NASTY = st.sampled_from([0, 1, 2, 3, 4, 63, 64, 65, 399, 400, 401, 512, 513, -1, -104, 0x7FFFFFFF, -0x80000000])
WORD = NASTY.map(lambda number: number & 0xFFFFFFFF)


@given(
    known=st.sampled_from(sorted(TRANSFERS)),
    head=st.fixed_dictionaries(
        {},
        optional={
            "command": st.sampled_from([3, 4]),
            "status": NASTY,
            "actual": NASTY,
            "packets": NASTY,
            "errors": NASTY,
        },
    ),
    payload=st.integers(0, 600),
    described=st.lists(st.tuples(WORD, WORD, WORD, WORD), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_no_lie_reaches_the_kernel(known, head, payload, described):
    rest = bytes(payload) + b"".join(struct.pack(">IIII", *one) for one in described)
    asyncio.run(talk({known: lambda seqnum, asked: reply(seqnum, **{"actual": asked.length, **head}, rest=rest)}))


# -- what it counts ----------------------------------------------------------------------------------------------------


async def test_what_is_counted():
    device = Counted(Puppet())
    puppet = device._device
    puppet.answer = lambda transfer: Completion(Status.OK, bytes(7)) if transfer.is_in else Completion(actual=9)
    device.submit(Transfer(0x81, 64))
    device.submit(Transfer(0x01, 64, bytes(64)))
    puppet.answer = lambda transfer: None
    for status in (Status.STALL, Status.CANCELLED, Status.TIMEOUT):
        device.submit(Transfer(0x81, 64))
        puppet.finish(Completion(status), at=0)
    await asyncio.sleep(0)
    assert device.counts == Counts(transfers=5, bytes_in=7, bytes_out=9, errors=2)
    assert str(device.counts) == "5 transfers, 7 bytes from the device, 9 bytes to it, 2 errors"
