"""The controller's side of ferry: what it says, what its user is told, and what it makes of a target that is wrong."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.protocols.ferry.wire import (
    FAILED,
    INFO,
    RESTART,
    SHORT_NOT_OK,
    TOKEN,
    T,
    bulk,
    call,
    claim,
    control,
    device,
    heartbeat,
    interrupt,
    iso,
    iso_reply,
    parts,
    reply,
    resume,
    u32,
    unlink,
    version,
    version_reply,
)
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Changed, Claimed, Completed, Event, Left, Listed, Refusal, Refused
from usbferry.protocols.ferry.importer import Importer
from usbferry.protocols.limits import DEFAULT_LIMITS, Limits
from usbferry.usb.setup import Setup, clear_halt, set_configuration, set_interface
from usbferry.usb.transfer import Completion, Flags, IsoPacket, Transfer
from usbferry.usb.types import Status

OK, STALL, SHORT, CANCELLED, GONE = Status.OK, Status.STALL, Status.SHORT, Status.CANCELLED, Status.GONE
SMALL = Limits(transfer_bytes=1024, transfers=4, bytes_in_flight=2048)


class Talk:
    """An importer whose target is played by the test."""

    def __init__(self, *, resends: bool = False) -> None:
        self.importer = Importer(resends=resends)
        self.held = b""
        self.now = 0.0
        self.told: list[Event] = []

    def says(self, *messages: bytes) -> Talk:
        """What goes to the target since, every byte."""
        said, self.importer.outgoing = b"".join(self.importer.outgoing), []
        assert len(said) == self.importer.outgoing_bytes
        self.importer.outgoing_bytes = 0
        assert said == b"".join(messages)
        return self

    def hears(self, *messages: bytes, step: int = 1 << 30) -> Talk:
        data = b"".join(messages)
        for at in range(0, len(data), step):
            buffer = bytearray(self.held + data[at : at + step])
            self.importer.receive(memoryview(buffer), self.now)
            self.told += self.importer.events()
            self.held = bytes(buffer[self.importer.consumed :])
            buffer[:] = b"\xee" * len(buffer)
        return self

    def ends(self) -> list[tuple[int, int, bytes, int]]:
        """Tag, status, data and bytes done of what has ended since."""
        told, self.told = self.told, []
        return [(e.tag, e.status, bytes(e.data), e.actual) for e in told if is_end(e)]

    def event(self) -> Event:
        [event] = self.told
        self.told = []
        return event


def is_end(event: Event) -> bool:
    assert isinstance(event, Completed)
    return True


def using(limits: Limits = DEFAULT_LIMITS, *, resends: bool = False) -> Talk:
    talk = Talk(resends=resends)
    talk.importer.claim("1-1")
    if resends:
        talk.says(version()).hears(version_reply(limits=limits)).says(claim())
        talk.hears(reply(T + 1, 0, TOKEN + device()))
    else:
        talk.says(version(), claim()).hears(version_reply(limits=limits), reply(T + 1, 0, TOKEN + device()))
    assert isinstance(talk.event(), Claimed)
    return talk.says(call(T + 2, 22))


# -- questions ------------------------------------------------------------------------------------------------------


def test_a_list():
    talk = Talk()
    talk.importer.list_devices()
    one = device()
    talk.says(version(), call(T + 1, 2)).hears(version_reply(), reply(T + 1, 0, u32(1, len(one)) + one), step=3)
    event = talk.event()
    assert isinstance(event, Listed)
    [info] = event.devices
    assert (info.name, info.device, info.configurations, info.path, info.product) == (
        "1-1", INFO.device, INFO.configurations, "/usbferry/1-1", "Zero",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "reason"),
    [(2, Refusal.NOT_FOUND), (3, Refusal.BUSY), (11, Refusal.UNAVAILABLE), (12, Refusal.FAILED), (99, Refusal.FAILED)],
)
def test_a_refusal_and_another_question(code: int, reason: Refusal):
    talk = Talk()
    talk.importer.claim("1-1")
    talk.says(version(), claim()).hears(version_reply(), reply(T + 1, code))
    event = talk.event()
    assert isinstance(event, Refused)
    assert event.reason is reason
    talk.importer.list_devices()
    talk.says(call(T + 2, 2))


def test_a_target_of_another_version():
    talk = Talk()
    talk.importer.claim("1-1")
    talk.hears(reply(T, 10, u32(1, 2)), reply(T + 1, 0, TOKEN + device()))
    event = talk.event()
    assert isinstance(event, Refused)
    assert "no version of ferry known here" in event.text


def test_changes_are_told_as_they_come():
    talk = Talk()
    talk.importer.watch()
    talk.says(version(), call(T + 1, 19, u32(0))).hears(version_reply(), reply(T + 1, 0, u32(1)))
    assert isinstance(talk.event(), Changed)
    talk.says(call(T + 2, 19, u32(1))).hears(reply(T + 2, 0, u32(7)))
    assert isinstance(talk.event(), Changed)
    talk.says(call(T + 3, 19, u32(7)))


@pytest.mark.parametrize("name", ["", "x" * 256, "ü"])
def test_what_cannot_be_a_name(name: str):
    with pytest.raises(ValueError, match="no device name"):
        Talk().importer.claim(name)


def test_a_release():
    talk = using()
    talk.importer.release()
    talk.says(call(1, 4))
    assert talk.importer.done


# -- transfers --------------------------------------------------------------------------------------------------------


def test_each_kind_of_transfer_and_its_end():
    talk, packets = using(), [IsoPacket(0, 2), IsoPacket(4, 2)]
    for transfer in (
        Transfer(0x81, 64),
        Transfer(0x02, 5, b"hello", flags=Flags.ZERO_PACKET),
        Transfer(0x83, 8, interval=10),
        Transfer(0x80, 18, b"", bytes.fromhex("8006000100001200")),
        Transfer(0x04, 6, b"abcdef", packets=packets, interval=1, start_frame=7),
        Transfer(0x81, 8, stream_id=9),
    ):
        talk.importer.submit(transfer)
    talk.says(
        bulk(1, 0x81, 64),
        bulk(2, 0x02, data=b"hello", flags=0x40),
        interrupt(3, 0x83, 8, 10),
        control(4, "8006000100001200"),
        iso(5, 0x04, (2, 2), b"abef", frame=7),
        bulk(6, 0x81, 8, stream=9),
    )
    talk.hears(reply(2), reply(1, 0, b"abc"), reply(4, FAILED + STALL), reply(3, 0, b"12345678"), step=5)
    talk.hears(iso_reply(5, [(0, 2), (FAILED + Status.CRC, 0)], frame=9), reply(6, FAILED + SHORT, b"x"))
    told = talk.told
    assert talk.ends() == [
        (2, OK, b"", 5),
        (1, OK, b"abc", 3),
        (4, STALL, b"", 0),
        (3, OK, b"12345678", 8),
        (5, OK, b"", 2),
        (6, SHORT, b"x", 1),
    ]
    done = told[4]  # type: ignore[attr-defined]
    assert (done.packets, done.start_frame) == ([IsoPacket(0, 2, 2), IsoPacket(4, 2, 0, Status.CRC)], 9)


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (set_configuration(2), call(1, 11, b"\2")),
        (set_interface(3, 4), call(1, 12, b"\3\4")),
        (clear_halt(0x81), call(1, 13, b"\x81")),
        (Setup(0x23, 3, 4, 1), call(1, 10)),
        (Setup(0, 9, 0x102), control(1, "0009020100000000")),
        (set_interface(0x100, 0), control(1, "010b000000010000")),
    ],
)
def test_requests_that_have_calls_of_their_own(setup: Setup, said: bytes):
    talk = using()
    talk.importer.submit(Transfer(0, 0, b"", setup.pack()))
    talk.says(said).hears(reply(1))
    assert talk.ends() == [(1, OK, b"", 0)]


@pytest.mark.parametrize(
    "wrong",
    [
        Transfer(0x02, 5, b"four"),
        Transfer(0x80, 8, b"", bytes.fromhex("8006000100001200")),
        Transfer(0x00, 18, bytes(18), bytes.fromhex("8006000100001200")),
        Transfer(0x80, 8, b"", b"short"),
        Transfer(0x81, 1025),
        Transfer(0x83, 4, packets=[IsoPacket(2, 4)], interval=1),
        Transfer(0x81, -1),
        Transfer(0x83, 4, packets=[IsoPacket(0, -4)], interval=1),
        Transfer(0x83, 4, packets=[IsoPacket(-4, 4)], interval=1),
    ],
)
def test_what_does_not_fit_together(wrong: Transfer):
    talk = using(SMALL)
    with pytest.raises(ValueError, match=" "):
        talk.importer.submit(wrong)
    talk.says()


@pytest.mark.parametrize(("code", "status"), [(4, GONE), (13, Status.INVALID), (3, Status.BUSY), (8, Status.FAILED)])
def test_calls_that_failed_end_their_transfers(code: int, status: Status):
    talk = using()
    talk.importer.submit(Transfer(0x02, 1, b"x"))
    talk.hears(reply(1, code))
    assert talk.ends() == [(1, status, b"", 0)]


@pytest.mark.parametrize(
    "wrong",
    [
        reply(99),
        reply(1, 0, bytes(9)),
        reply(2, 0, b"abc"),
        reply(2, 0, u32(6)),
        iso_reply(3, [(0, 1)]),
        iso_reply(3, [(0, 5), (0, 0)], b"12345"),
        iso_reply(3, [(0, 1), (0, 1)], b"123"),
        reply(3, 0, b"short"),
        u32(7) + bytes(8),
        u32(0x80000008) + bytes(8),
        reply(1, 6, u32(1 << 30, 0) + b"x"),
        reply(T + 2, FAILED)[:0] + reply(T + 77) + reply(99),
    ],
)
def test_what_no_target_may_say(wrong: bytes):
    talk = using()
    talk.importer.submit(Transfer(0x81, 8))
    talk.importer.submit(Transfer(0x02, 5, b"hello"))
    talk.importer.submit(Transfer(0x83, 8, packets=[IsoPacket(0, 4), IsoPacket(4, 4)], interval=1))
    with pytest.raises(ProtocolError):
        talk.hears(wrong)


def test_a_long_read_and_a_long_write():
    data = bytes(range(256)) * 300
    talk = using()
    talk.importer.submit(Transfer(0x81, len(data)))
    talk.importer.submit(Transfer(0x02, len(data), data))
    talk.says(bulk(1, 0x81, len(data)), *parts(2, b"\6\2\0\0", u32(len(data)) + data, (65536, 65536)))
    talk.hears(*parts(1, u32(0), data, (512, 51200, 51200), is_reply=True), step=1000)
    assert talk.ends() == [(1, OK, data, len(data))]


# -- cancels, SHORT_NOT_OK --------------------------------------------------------------------------------------------


def test_a_cancel():
    talk = using()
    tag = talk.importer.submit(Transfer(0x81, 8))
    assert talk.importer.cancel(tag) is talk.importer.cancel(tag) is talk.importer.cancel(99) is None
    talk.says(bulk(1, 0x81, 8), unlink(2, 1)).hears(reply(1, FAILED + CANCELLED, b"x"), reply(2))
    assert talk.ends() == [(tag, CANCELLED, b"x", 1)]


def test_a_queue_that_stopped_is_started_by_what_its_user_sends_then():
    talk = using()
    for _ in range(2):
        talk.importer.submit(Transfer(0x81, 8, flags=Flags.SHORT_NOT_OK))
    talk.says(bulk(1, 0x81, 8, flags=SHORT_NOT_OK), bulk(2, 0x81, 8, flags=SHORT_NOT_OK))
    talk.hears(reply(1, FAILED + SHORT, b"x"), reply(2, FAILED + CANCELLED))
    for address in (0x82, 0x81, 0x81):
        talk.importer.submit(Transfer(address, 8))
    talk.says(bulk(3, 0x82, 8), bulk(4, 0x81, 8, flags=RESTART), bulk(5, 0x81, 8))


def test_a_restart_that_never_left_is_made_up_for():
    talk = using(SMALL)
    tags = [talk.importer.submit(Transfer(0x81, 8, flags=Flags.SHORT_NOT_OK)) for _ in range(3)]  # one is for writes
    talk.says(*(bulk(n, 0x81, 8, flags=SHORT_NOT_OK) for n in (1, 2, 3)))
    talk.hears(reply(1, FAILED + SHORT)).says(heartbeat(T + 3, 1, 1))
    withdrawn = talk.importer.submit(Transfer(0x81, 8))
    assert withdrawn not in tags
    completion = talk.importer.cancel(withdrawn)
    assert isinstance(completion, Completion)
    assert completion.status == CANCELLED
    talk.importer.submit(Transfer(0x81, 8))
    talk.says().hears(reply(T + 3)).says(bulk(4, 0x81, 8, flags=RESTART))


@pytest.mark.parametrize("limits", [Limits(transfer_bytes=300), Limits(bytes_in_flight=1023), Limits(transfer_bytes=0)])
def test_a_target_that_takes_no_whole_packet_is_refused(limits):
    talk = Talk()
    talk.importer.claim("1-1")
    granted = min(limits.transfer_bytes, limits.bytes_in_flight)
    with pytest.raises(ProtocolError, match=f", {granted} bytes of a transfer,"):
        talk.says(version(), claim()).hears(version_reply(limits=limits))


def test_a_claim_keeps_what_it_was_granted():
    talk = using(SMALL)
    assert talk.importer.largest == 1024
    talk.importer.disconnected(1.0)
    talk.importer.connected(2.0)
    talk.says(version(T + 3), resume(T + 4)).hears(version_reply(T + 3), reply(T + 4, 0, u32(1)))
    assert talk.importer.largest == 1024


# -- the window -------------------------------------------------------------------------------------------------------


def test_no_more_is_sent_than_was_granted():
    talk = using(SMALL)
    for _ in range(6):
        talk.importer.submit(Transfer(0x81, 8, interval=1))
    talk.says(*(interrupt(n, 0x81, 8, 1) for n in (1, 2, 3, 4)))
    talk.hears(reply(2), reply(1)).says(heartbeat(T + 3, 2, 2)).hears(reply(T + 3))
    talk.says(heartbeat(T + 4, 1, 1), interrupt(5, 0x81, 8, 1))  # what came meanwhile is acknowledged at once
    talk.hears(reply(3), reply(T + 4)).says(heartbeat(T + 5, 3, 3), interrupt(6, 0x81, 8, 1))


def test_runs_of_replies_are_acknowledged_as_such():
    talk = using(Limits(transfers=16))
    for _ in range(4):
        talk.importer.submit(Transfer(0x81, 8))
    talk.says(*(bulk(n, 0x81, 8) for n in (1, 2, 3, 4)))
    talk.hears(*(reply(n) for n in (1, 2, 3, 4))).says(heartbeat(T + 3, 1, 4))


def test_bulk_leaves_room_for_others():
    """And reads to writes, for those may wait for ever."""
    talk = using(Limits(transfers=16, bytes_in_flight=1 << 20, transfer_bytes=1 << 16))
    for _ in range(30):
        talk.importer.submit(Transfer(0x81, 8))
    talk.says(*(bulk(n, 0x81, 8) for n in range(1, 14)))
    for _ in range(3):
        talk.importer.submit(Transfer(0x01, 1, b"x"))
    talk.says(bulk(14, 0x01, data=b"x"))
    talk.importer.submit(Transfer(0x83, 8, interval=1))
    talk.says(interrupt(15, 0x83, 8, 1))


@pytest.mark.parametrize("transfers", [1, 2, 3, 4, 8, 15])
@pytest.mark.parametrize("other", [Transfer(0x01, 1, b"x"), Transfer(0x83, 8, interval=1)])
def test_reads_leave_a_call_of_a_small_window_too(transfers: int, other: Transfer):
    """A sixteenth of it was none, and while reads waited nothing was ever written. One call alone is not left."""
    talk = using(Limits(transfers=transfers))
    for _ in range(16):
        talk.importer.submit(Transfer(0x81, 8))
    reads = max(transfers - 1 - 2 * (transfers // 8), 1)
    talk.says(*(bulk(n, 0x81, 8) for n in range(1, reads + 1)))
    talk.importer.submit(other)
    assert len(records_of(talk)) == (transfers > 1)


@pytest.mark.parametrize(("transfers", "polls"), [(8, 1), (9, 1), (15, 1), (16, 1), (32, 3), (64, 7), (301, 35)])
@pytest.mark.parametrize("other", [Transfer(0x01, 1, b"x"), Transfer(0x00, 0, b"", bytes(8))])
def test_reads_of_both_kinds_leave_a_call_of_a_window(transfers: int, polls: int, other: Transfer):
    """Bulk reads left one to writes, which a parked interrupt read took, and nothing was ever written."""
    talk = using(Limits(transfers=transfers))
    for _ in range(transfers):
        talk.importer.submit(Transfer(0x81, 8))
    for _ in range(polls):
        talk.importer.submit(Transfer(0x83, 8, interval=1))
    reads = len(records_of(talk)) - polls
    assert reads >= transfers // 2
    for identifier in range(reads + polls + 1, reads + polls + 9):
        talk.importer.submit(other)
        assert len(records_of(talk)) == 1
        talk.hears(reply(identifier))
        [beat] = records_of(talk)
        talk.hears(reply(int.from_bytes(beat[4:8], "big")))


def test_transfers_leave_room_to_end_them():
    """With a window of parked transfers nothing could be unlinked, nor the device be given back."""
    talk = using(Limits(transfers=16))
    for _ in range(20):
        talk.importer.submit(Transfer(0x81, 8, interval=1))
    talk.says(*(interrupt(n, 0x81, 8, 1) for n in range(1, 16)))
    for tag in (1, 2, 3):
        talk.importer.cancel(tag)
    talk.says(unlink(16, 1))
    talk.hears(reply(1, FAILED + CANCELLED)).says(heartbeat(T + 3, 1, 1))  # for others wait
    talk.hears(reply(16), reply(T + 3)).says(heartbeat(T + 4, 16, 16), unlink(17, 2))
    talk.hears(reply(T + 4)).says(unlink(18, 3))


@pytest.mark.parametrize("transfers", [8, 16, 100, 2048])
def test_a_device_is_given_back_though_all_its_transfers_wait(transfers: int):
    talk = using(Limits(transfers=transfers))
    for number in range(transfers):
        talk.importer.submit(Transfer(0x81, 8, interval=1))
        if talk.importer._outbox._urgent:
            talk.importer.cancel(number + 1)  # it never left
            break
    said = records_of(talk)
    talk.importer.release()
    talk.says(call(len(said) + 1, 4))


# -- time and transports ----------------------------------------------------------------------------------------------


def test_heartbeats_and_silence():
    talk = using()
    assert talk.importer.deadline() == 5
    talk.importer.tick(5.0)
    talk.says(heartbeat(T + 3))
    talk.importer.tick(10.0)
    talk.says()
    with pytest.raises(ProtocolError, match="silent for 15 s"):
        talk.importer.tick(15.0)


def test_grace_is_what_the_target_said():
    talk = using(Limits(grace_seconds=7))
    tag = talk.importer.submit(Transfer(0x81, 8))
    assert talk.importer.disconnected(100.0)
    assert talk.importer.deadline() == 107
    talk.importer.tick(106.9)
    assert not talk.importer.done
    talk.importer.tick(107.0)
    assert talk.importer.done
    assert (tag, talk.importer.ended) == (1, "no connection to the server for 7 s")


def test_what_is_submitted_without_a_transport_waits():
    talk = using()
    talk.importer.submit(Transfer(0x81, 8))
    talk.says(bulk(1, 0x81, 8))
    assert talk.importer.disconnected(1.0)
    talk.importer.submit(Transfer(0x02, 1, b"x"))
    talk.says()
    talk.importer.connected(2.0)
    talk.says(version(T + 3), resume(T + 4, (1,))).hears(version_reply(T + 3), reply(T + 4, 0, u32(2)))
    talk.says(call(T + 5, 22), bulk(2, 0x02, data=b"x"))


def test_a_session_that_is_over():
    talk = using()
    talk.importer.disconnected(1.0)
    talk.importer.connected(2.0)
    talk.hears(version_reply(T + 3), reply(T + 4, 9))
    assert isinstance(talk.event(), Left)
    assert talk.importer.done
    assert not talk.importer.disconnected(3.0)


def test_a_session_that_resumes_where_it_cannot_be():
    talk = using(SMALL)
    talk.importer.submit(Transfer(0x81, 8))
    talk.importer.disconnected(1.0)
    talk.importer.connected(2.0)
    with pytest.raises(ProtocolError, match="resumes at #9"):
        talk.hears(version_reply(T + 3), reply(T + 4, 0, u32(9)))


def test_a_claim_ends():
    talk = using().hears(reply(T + 2, FAILED + GONE))
    assert isinstance(talk.event(), Left)
    assert talk.importer.ended == "the device has left the server"


@pytest.mark.parametrize("question", ["list_devices", "watch"])
def test_a_transport_without_a_claim_is_not_missed(question: str):
    talk = Talk()
    getattr(talk.importer, question)()
    assert not talk.importer.disconnected(1.0)
    assert talk.importer.done


def adopted(talk: Talk) -> Iterable[bytes]:
    """The identifiers of an adopter are random."""
    raw = b"".join(talk.importer.outgoing)
    return raw[4:8], raw[28:32]


def test_another_process_takes_the_claim_over():
    talk = Talk()
    talk.importer.adopt(TOKEN)
    first, second = (int.from_bytes(one, "big") for one in adopted(talk))
    talk.says(version(first), resume(second)).hears(version_reply(first), reply(second, 0, u32(7)))
    talk.says(call(second + 1, 22), call(7, 18)).hears(reply(7, 0, device()))
    event = talk.event()
    assert isinstance(event, Claimed)
    assert event.info.product == "Zero"
    talk.importer.submit(Transfer(0x81, 8))
    talk.says(bulk(8, 0x81, 8))


def test_a_claim_that_cannot_be_taken_over():
    talk = Talk()
    talk.importer.adopt(TOKEN)
    first, second = (int.from_bytes(one, "big") for one in adopted(talk))
    talk.hears(version_reply(first), reply(second, 9))
    assert isinstance(talk.event(), Refused)


def test_a_claim_that_was_taken_over_though_its_device_has_left():
    """It was said that the server had sent a device record of no bytes."""
    talk = Talk()
    talk.importer.adopt(TOKEN)
    first, second = (int.from_bytes(one, "big") for one in adopted(talk))
    talk.hears(version_reply(first), reply(second, 0, u32(7)), reply(7, FAILED + GONE))
    refused = talk.event()
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.text) == (Refusal.NOT_FOUND, "the device has left the server")
    assert talk.importer.done
    assert not talk.hears(reply(second + 1, FAILED + GONE)).told, "that is known already"


# -- where packets are lost -------------------------------------------------------------------------------------------


def test_what_has_no_reply_is_sent_again_later_each_time():
    talk = using(resends=True)
    talk.hears(reply(T + 2, 5))
    talk.importer.submit(Transfer(0x02, 1, b"x"))
    talk.says(bulk(1, 0x02, data=b"x"))
    again = []
    for ms in range(1000):
        talk.importer.tick(ms / 1000)
        said, talk.importer.outgoing, talk.importer.outgoing_bytes = b"".join(talk.importer.outgoing), [], 0
        if bulk(1, 0x02, data=b"x") in said:
            again.append(ms)
    assert again == pytest.approx([20, 60, 140, 300, 620], abs=5)
    talk.hears(reply(1), reply(1))
    assert talk.ends() == [(1, OK, b"", 1)]


def test_one_heartbeat_is_outstanding_though_it_waits_for_resume():
    """A second one was sent, and the reply to the first gave room that the target had not."""
    talk = using(Limits(transfers=4), resends=True)
    for _ in range(2):
        talk.importer.submit(Transfer(0x81, 8, interval=1))
    talk.importer.disconnected(0.0)
    talk.importer.connected(0.0)
    talk.hears(version_reply(T + 3, Limits(transfers=4)))
    talk.importer.tick(5.0)
    talk.importer.outgoing, talk.importer.outgoing_bytes = [], 0
    talk.hears(reply(T + 4, 0, u32(3)), reply(1), reply(2)).says(call(T + 5, 22), heartbeat(T + 6))
    talk.hears(reply(T + 6)).says(heartbeat(T + 7, 1, 2))


class Small:
    """UDP, whose packets are small."""

    packet_bytes, is_lossy, unsent, blocked = 1232, True, 0, False

    def proven(self) -> None: ...


def on_small_packets(transfers: int) -> Talk:
    talk = Talk(resends=True)
    talk.importer.set_way(Small())
    limits = Limits(transfers=transfers)
    talk.importer.claim("1-1")
    talk.says(version()).hears(version_reply(limits=limits)).says(claim())
    talk.hears(reply(T + 1, 0, TOKEN + device())).says(call(T + 2, 22)).event()
    talk.hears(reply(T + 2, 5))
    return talk


def records_of(talk: Talk) -> list[bytes]:
    """What goes to the target since."""
    raw, found = b"".join(talk.importer.outgoing), []
    talk.importer.outgoing, talk.importer.outgoing_bytes = [], 0
    while raw:
        size = 4 + int.from_bytes(raw[:4], "big")
        found.append(raw[:size])
        raw = raw[size:]
    return found


def heartbeats(talk: Talk) -> list[bytes]:
    return [one for one in records_of(talk) if one[8] == 21]


def park(talk: Talk, count: int) -> None:
    """As many transfers as there is room for, up to `count`, wait at the target."""
    for number in range(1, count + 1):
        talk.importer.submit(Transfer(0x82, 8, interval=1))
        if number <= 301:
            talk.hears(reply(number, 5))


def test_a_heartbeat_fits_one_packet_and_the_next_has_the_rest():
    """It went in parts, which no target takes: it was never answered as one, and the window stayed full."""
    talk = on_small_packets(2048)
    outbox = talk.importer._outbox
    outbox.grant(2048, 1 << 20)
    for number in range(1, 601):  # half of them take long, so that every other one makes a run of its own
        talk.importer.submit(Transfer(0x82, 8, interval=1))
        talk.hears(reply(number, 5))
    for number in range(1, 401, 2):
        talk.hears(reply(number))
    assert not heartbeats(talk)
    talk.importer.tick(5.0)
    said = heartbeats(talk)
    assert said == [heartbeat(T + 3, *[end for n in range(1, 306, 2) for end in (n, n)])]
    assert len(said[0]) - 4 <= Small.packet_bytes
    talk.hears(reply(T + 3)).importer.tick(10.0)
    assert heartbeats(talk) == [heartbeat(T + 4, *[end for n in range(307, 401, 2) for end in (n, n)])]
    talk.hears(reply(T + 4))
    assert outbox._used == 400


def test_replies_in_any_order_are_acknowledged_in_few_runs():
    talk = using(Limits(transfers=12))
    for _ in range(11):
        talk.importer.submit(Transfer(0x81, 8, interval=1))
    talk.says(*(interrupt(n, 0x81, 8, 1) for n in range(1, 12)))
    talk.hears(reply(3), reply(1), reply(2)).says(heartbeat(T + 3, 1, 3))


def test_a_heartbeat_that_is_refused_frees_nothing():
    talk = using(SMALL)
    talk.importer.submit(Transfer(0x81, 8, interval=1))
    talk.says(interrupt(1, 0x81, 8, 1)).hears(reply(1)).says(heartbeat(T + 3, 1, 1))
    with pytest.raises(ProtocolError, match="heartbeat"):
        talk.hears(reply(T + 3, 1))
    assert talk.importer._outbox._used == 1


def test_no_more_is_outstanding_than_one_packet_of_resume_names():
    """RESUME went in parts, which no target takes, and the device was lost with its transport."""
    talk = on_small_packets(2048)
    park(talk, 400)
    sent = len([one for one in records_of(talk) if one[8] == 8])
    assert sent == 301 - 4
    for tag in (1, 2, 3, 4, 5):
        talk.importer.cancel(tag)
    assert len(records_of(talk)) == 4
    talk.importer.disconnected(1.0)
    talk.importer.connected(1.0)
    records_of(talk)
    talk.hears(version_reply(T + 3))
    said = records_of(talk)
    assert said == [resume(T + 4, range(1, 302))]
    assert len(said[0]) - 4 <= Small.packet_bytes


def test_replies_that_overtake_each_other_wait():
    talk = using(resends=True)
    for address in (0x81, 0x81, 0x82, 0x81):
        talk.importer.submit(Transfer(address, 8))
    talk.hears(reply(2), reply(3))
    assert [end[0] for end in talk.ends()] == [3]
    completion = talk.importer.cancel(2)
    assert completion is not None
    assert completion.status == OK, "it has its reply: nobody takes that back"
    talk.hears(reply(4), reply(1))
    assert [end[0] for end in talk.ends()] == [1, 4]
