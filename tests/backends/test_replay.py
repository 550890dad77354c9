"""`replay:`: what a tape plays, in which order and when, and what it does with a host that does something else."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.devices.host import control, read, turn, write
from usbferry import aio
from usbferry.backends.capture import tape
from usbferry.backends.capture.events import Event, Packet
from usbferry.backends.replay import ReplaySource
from usbferry.device import Claimant, Device, DeviceError
from usbferry.devices.clock import VirtualClock
from usbferry.devices.player import Player
from usbferry.registry import open_source
from usbferry.usb import build
from usbferry.usb.info import DeviceInfo
from usbferry.usb.setup import Setup, clear_halt
from usbferry.usb.transfer import Completion
from usbferry.usb.tree import Configuration, DescriptorType, DeviceDescriptor, Endpoint, Interface
from usbferry.usb.types import Speed, Status, TransferType

ME = Claimant("local")
BULK, INTERRUPT, CONTROL, ISO = (
    TransferType.BULK,
    TransferType.INTERRUPT,
    TransferType.CONTROL,
    TransferType.ISOCHRONOUS,
)
DEVICE = DeviceDescriptor(0x1209, 0x0001, product=2)
CONFIGURATION = Configuration(
    interfaces=(
        Interface(
            0,
            endpoints=(
                Endpoint(0x81, BULK, 512),
                Endpoint(0x02, BULK, 512),
                Endpoint(0x83, INTERRUPT, 8, 1),
                Endpoint(0x84, ISO, 64, 1),
            ),
        ),
    )
)


class Conversation:
    """Events as a capture has them: `tell` writes the two of a transfer, a tenth of a second apart from the last."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.now = 1000.0
        raw = build.configuration(CONFIGURATION)
        self.request(Setup(0x80, 6, DescriptorType.DEVICE << 8, 0, 18), build.device(DEVICE))
        self.request(Setup(0x80, 6, DescriptorType.CONFIGURATION << 8, 0, 255), raw)
        self.request(Setup(0x80, 6, DescriptorType.STRING << 8 | 2, 0x0409, 255), build.string("Thing"))

    def tell(
        self, kind: TransferType, endpoint: int, asked: int, data: bytes, status: Status = Status.OK, **more
    ) -> None:
        number, is_in = len(self.events), bool(endpoint & 0x80)
        end = {"packets": more.pop("packets")} if "packets" in more else {}
        actual = len(data) if is_in or status == Status.OK else 0
        first, last = (b"", data) if is_in else (data, b"")
        submit = Event(self.now, (1, 5), number, False, kind, endpoint, Status.OK, asked, first, **more)
        self.now += 0.1
        self.events += [submit, Event(self.now, (1, 5), number, True, kind, endpoint, status, actual, last, **end)]

    def read(self, endpoint: int, data: bytes, asked: int = 512, status: Status = Status.OK) -> None:
        self.tell(INTERRUPT if endpoint == 0x83 else BULK, endpoint, asked, data, status)

    def write(self, data: bytes, status: Status = Status.OK) -> None:
        self.tell(BULK, 0x02, len(data), data, status)

    def request(self, setup: Setup, data: bytes = b"", status: Status = Status.OK) -> None:
        self.tell(CONTROL, 0x80 if setup.is_in else 0, setup.length, data, status, setup=setup.pack())


async def played(conversation: Conversation, **options) -> Player:
    found = tape.of(conversation.events)
    assert found is not None
    player = Player(found, clock=options.pop("clock", None) or VirtualClock(), **options)
    await player.open()
    return player


def status(answer) -> Status | None:
    if isinstance(answer, Completion):
        return answer.status
    return answer.result().status if answer.done() else None


def got(answer) -> bytes | None:
    """What a read brought; None while it waits."""
    if isinstance(answer, asyncio.Future):
        if not answer.done():
            return None
        answer = answer.result()
    return bytes(answer.data)


def asked(device: Device, setup: Setup, data: bytes = b"") -> Completion:
    answer = device.submit(control(setup, data))
    assert isinstance(answer, Completion)
    return answer


# -- what it is --------------------------------------------------------------------------------------------------------


async def test_it_is_the_recorded_device() -> None:
    player = await played(Conversation())
    info = player.info
    assert (info.device, info.configurations, info.product) == (DEVICE, (CONFIGURATION,), "Thing")
    assert info.speed is Speed.HIGH
    assert bytes(asked(player, Setup(0x80, 6, 0x0200, 0, 9)).data) == build.configuration(CONFIGURATION)[:9]
    assert bytes(asked(player, Setup(0x80, 6, 0x0302, 0x0409, 4)).data) == build.string("Thing")[:4]
    assert bytes(asked(player, Setup(0x80, 8, 0, 0, 1)).data) == b"\x01"
    await player.close()


async def test_a_descriptor_that_was_refused_is_refused_again() -> None:
    talk = Conversation()
    talk.request(Setup(0x80, 6, 0x0600, 0, 10), status=Status.STALL)
    player = await played(talk)
    assert asked(player, Setup(0x80, 6, 0x0600, 0, 10)).status == Status.STALL
    await player.close()


# -- control requests --------------------------------------------------------------------------------------------------


async def test_requests_are_answered_in_their_order_and_the_last_for_ever() -> None:
    talk, setup = Conversation(), Setup(0xC0, 1, 7, 0, 8)
    for data in (b"one", b"two"):
        talk.request(setup, data)
    talk.request(Setup(0xC0, 2, 0, 0, 8), status=Status.STALL)
    player = await played(talk)
    assert [bytes(asked(player, setup).data) for _ in range(4)] == [b"one", b"two", b"two", b"two"]
    assert asked(player, Setup(0xC0, 2, 0, 0, 8)).status == Status.STALL
    assert bytes(asked(player, Setup(0xC0, 1, 7, 0, 2)).data) == b"tw"
    await player.close()
    await player.open()
    assert bytes(asked(player, setup).data) == b"one"
    await player.close()


async def test_what_was_never_asked_is_refused_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    player = await played(Conversation())
    for _ in range(3):
        assert asked(player, Setup(0xC0, 9, 0, 0, 8)).status == Status.STALL
    assert len(caplog.records) == 1
    assert "no answer to c0 0x09 value 0000 index 0000 length 8" in caplog.text
    await player.close()


@pytest.mark.parametrize(("check", "how"), [(False, Status.OK), (True, Status.STALL)])
async def test_other_data_with_a_request_is_told_or_refused(check: bool, how: Status, caplog) -> None:
    talk, setup = Conversation(), Setup(0x40, 1, 0, 0, 3)
    talk.tell(CONTROL, 0, 3, b"abc", setup=setup.pack())
    player = await played(talk, check=check)
    assert asked(player, setup, b"abc").status == Status.OK
    assert caplog.records == []
    assert asked(player, setup, b"abd").status == how
    assert len(caplog.records) == 1
    await player.close()


# -- data --------------------------------------------------------------------------------------------------------------


async def test_data_comes_in_order_in_pieces_of_any_size() -> None:
    talk = Conversation()
    talk.read(0x81, b"a" * 512)
    talk.read(0x81, b"b" * 100)
    talk.read(0x81, b"")
    talk.read(0x81, b"c" * 3)
    player = await played(talk)
    assert got(player.submit(read(0x81, 100))) == b"a" * 100
    assert got(player.submit(read(0x81, 4096))) == b"a" * 412 + b"b" * 100
    assert [got(player.submit(read(0x81, 512))) for _ in range(3)] == [b"", b"ccc", None]
    await player.close()


async def test_a_read_that_was_filled_goes_on_in_a_longer_one() -> None:
    talk = Conversation()
    for byte in b"xyz":
        talk.read(0x81, bytes([byte]) * 1024, asked=1024)
    player = await played(talk)
    assert got(player.submit(read(0x81, 8192))) == b"x" * 1024 + b"y" * 1024 + b"z" * 1024
    await player.close()


async def test_data_waits_for_what_the_host_had_sent_before() -> None:
    """However it was divided, and though the read is there first."""
    talk = Conversation()
    talk.read(0x83, b"hello")
    talk.write(b"question")
    talk.read(0x81, b"answer")
    player = await played(talk)
    early = player.submit(read(0x81, 64))
    assert got(player.submit(read(0x83, 8))) == b"hello"
    assert got(early) is None
    assert status(player.submit(write(0x02, b"ques"))) == Status.OK
    assert got(early) is None
    player.submit(write(0x02, b"tion"))
    assert got(early) == b"answer"
    await player.close()


async def test_data_waits_for_a_request_right_before_it() -> None:
    talk, setup = Conversation(), Setup(0xA1, 128, 2, 0, 3)
    talk.request(setup, b"\x01\x02\x00")
    talk.read(0x83, b"\x82\x10", asked=8)
    player = await played(talk)
    early = player.submit(read(0x83, 8))
    assert got(early) is None
    asked(player, setup)
    await turn()
    player.clock.advance(1)
    assert got(early) == b"\x82\x10"
    await player.close()


async def test_without_order_it_waits_for_nothing() -> None:
    talk = Conversation()
    talk.write(b"question")
    talk.read(0x81, b"answer")
    player = await played(talk, ordered=False)
    assert got(player.submit(read(0x81, 64))) == b"answer"
    await player.close()


@pytest.mark.parametrize(("check", "how"), [(False, Status.OK), (True, Status.STALL)])
async def test_other_data_to_an_endpoint_is_told_or_halts_it(check: bool, how: Status, caplog) -> None:
    talk = Conversation()
    talk.write(b"question")
    player = await played(talk, check=check)
    assert status(player.submit(write(0x02, b"ques"))) == Status.OK
    assert status(player.submit(write(0x02, b"XXXX"))) == how
    assert [r.message for r in caplog.records] == [
        "replay: the host sends something else than recorded to endpoint 0x02, byte 4"
    ]
    await player.close()


async def test_halts_come_again_where_they_were() -> None:
    talk = Conversation()
    talk.write(b"good")
    talk.write(b"bad", Status.STALL)
    talk.write(b"good again")
    talk.read(0x81, b"", status=Status.STALL)
    talk.read(0x81, b"after")
    player = await played(talk)
    assert [status(player.submit(write(0x02, data))) for data in (b"good", b"bad", b"bad")] == [0, 1, 1]
    asked(player, clear_halt(0x02))
    assert status(player.submit(write(0x02, b"good again"))) == Status.OK
    assert [status(player.submit(read(0x81, 64))) for _ in range(2)] == [Status.STALL] * 2
    asked(player, clear_halt(0x81))
    assert got(player.submit(read(0x81, 64))) == b"after"
    await player.close()


async def test_a_refusal_takes_no_more_than_is_sent() -> None:
    talk = Conversation()
    talk.write(b"twelve bytes", Status.TIMEOUT)
    talk.events[-1] = talk.events[-1]._replace(length=7)
    player = await played(talk)
    answer = player.submit(write(0x02, b"tw"))
    assert isinstance(answer, Completion)
    assert (answer.status, answer.actual) == (Status.TIMEOUT, 2)
    await player.close()


async def test_a_host_that_asks_for_everything_is_told_so_much_of(caplog: pytest.LogCaptureFixture) -> None:
    player = await played(Conversation())
    for value in range(1000):
        assert status(asked(player, Setup(0xC0, 1, value, 0, 4))) == Status.STALL
    assert len(caplog.records) == 200
    await player.close()


async def test_what_the_host_cancelled_is_no_answer() -> None:
    talk = Conversation()
    talk.read(0x81, b"", status=Status.CANCELLED)
    talk.read(0x81, b"part", status=Status.CANCELLED)
    talk.read(0x81, b"rest")
    player = await played(talk)
    assert got(player.submit(read(0x81, 64))) == b"partrest"
    await player.close()


async def test_a_device_that_says_it_has_nothing_goes_on_saying_so() -> None:
    """As FTDI's do: at the pace of the tape, for the host may ask more often this time."""
    talk = Conversation()
    for data in (b"\x01\x60", b"\x01\x60"):
        talk.read(0x81, data)
    talk.write(b"x")
    talk.read(0x81, b"\x01\x60x")
    player = await played(talk)
    assert [got(player.submit(read(0x81, 64))) for _ in range(2)] == [b"\x01\x60"] * 2
    third = player.submit(read(0x81, 64))
    assert got(third) is None
    player.clock.advance(0.11)
    assert got(third) == b"\x01\x60"
    player.submit(write(0x02, b"x"))
    assert got(player.submit(read(0x81, 64))) == b"\x01\x60x"
    await player.close()


async def test_isochronous_packets_play_and_then_are_empty() -> None:
    talk = Conversation()
    packets = (Packet(Status.OK, b"abc"), Packet(Status.CRC, b""), Packet(Status.OK, b"defg"))
    talk.tell(ISO, 0x84, 192, b"", packets=packets)
    async with aio.Handle(await played(talk), None) as handle:
        reading = handle.device.submit(aio.read_packets_transfer(0x84, [64] * 4))
        handle.device.clock.advance(1)
        assert aio.packets_read(reading.result()) == [
            (Status.OK, b"abc"),
            (Status.CRC, b""),
            (Status.OK, b"defg"),
            (Status.OK, b""),
        ]


# -- time and the end --------------------------------------------------------------------------------------------------


async def test_recorded_time_is_kept() -> None:
    talk = Conversation()
    talk.write(b"question")
    talk.now += 2
    talk.read(0x81, b"answer")
    player = await played(talk, timed=True)
    player.clock.advance(5)
    player.submit(write(0x02, b"question"))
    answer = player.submit(read(0x81, 64))
    player.clock.advance(2)
    assert got(answer) is None
    player.clock.advance(0.3)
    assert got(answer) == b"answer"
    await player.close()


@pytest.mark.parametrize(("end", "after"), [("wait", None), ("again", b"1")])
async def test_the_end(end: str, after: bytes | None) -> None:
    talk = Conversation()
    talk.read(0x81, b"1")
    talk.read(0x81, b"2")
    player = await played(talk, end=end)
    assert [got(player.submit(read(0x81, 64))) for _ in range(3)] == [b"1", b"2", after]
    await player.close()


async def test_it_leaves_once_all_is_played() -> None:
    talk = Conversation()
    talk.read(0x81, b"1")
    talk.read(0x83, b"2")
    player = await played(talk, end="leave")
    assert got(player.submit(read(0x81, 64))) == b"1"
    player.clock.advance(1)
    assert not player.gone.done()
    assert got(player.submit(read(0x83, 8))) == b"2"
    player.clock.advance(1)
    assert player.gone.result() == "its recording ended"
    await player.close()


# -- addresses and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("replay:", "write it as replay:FILE"),
        ("replay:x?device=5", "write it as BUS.ADDRESS"),
        ("replay:x?speed=warp", "option speed"),
        ("replay:x?other=1", "replay has no option 'other'; it has: timed, ordered, check, end, device, speed, fault"),
        ("replay:x?fault=explode", "no fault"),
        ("replay:x?end=never", "replay, option end: 'never' is none of wait, again, leave"),
        ("replay:/no/such?timed", r"there is no file /no/such; tap:/no/such\?of=ADDRESS records one"),
    ],
)
def test_an_address_that_makes_no_sense_says_why(address: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ReplaySource(address)


async def refused(address: str) -> str:
    source = open_source(address)
    with pytest.raises(DeviceError) as caught:
        await source.list()
    changes = source.watch()
    await source.close()
    with pytest.raises(StopAsyncIteration):
        await anext(changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_file_that_cannot_be_played_says_why(tmp_path: Path) -> None:
    assert "it is no file" in await refused(f"replay:{tmp_path}")
    (tmp_path / "text").write_text("hello world")
    assert "it is no capture file" in await refused(f"replay:{tmp_path}/text")
    (tmp_path / "tape").write_bytes(await recorded(tmp_path, "virtual:zero"))
    assert "no descriptors of that device, there are 1.1" in await refused(f"replay:{tmp_path}/tape?device=1.9")


async def test_a_file_that_went_away_says_why(tmp_path: Path) -> None:
    (tmp_path / "tape").write_bytes(await recorded(tmp_path, "virtual:zero"))
    source = open_source(f"replay:{tmp_path}/tape")
    (tmp_path / "tape").unlink()
    with pytest.raises(DeviceError, match="No such file"):
        await source.list()
    await source.close()


async def recorded(folder: Path, address: str) -> bytes:
    async with await aio.open(f"tap:{folder / 'one'}?of={address}"):
        pass
    return (folder / "one").read_bytes()


async def test_several_devices_are_told_apart(tmp_path: Path) -> None:
    talk, other = Conversation(), Conversation()
    both = [*talk.events, *(event._replace(device=(2, 7)) for event in other.events)]
    write_capture(tmp_path / "both", both)
    text = await refused(f"replay:{tmp_path}/both")
    assert "choose one: device=1.5 (1209:0001 Thing), device=2.7 (1209:0001 Thing)" in text
    async with await aio.open(f"replay:{tmp_path}/both?device=2.7&fault=stall:0:request=9&speed=full") as device:
        assert (device.info.ids, device.info.speed) == ("1209:0001", Speed.FULL)
        with pytest.raises(aio.Stalled):
            await device.set_configuration(1)


def write_capture(path: Path, events: list[Event]) -> None:
    from usbferry.backends.capture import pcapng, usbmon

    blocks = [pcapng.section("test"), pcapng.interface(usbmon.LINKTYPE, "usbmon0", "", 0)]
    blocks += [pcapng.packet(0, int(e.seconds * 1e9), usbmon.head(e), e.data) for e in events]
    path.write_bytes(b"".join(blocks))


async def test_what_the_capture_cut_is_zeros_and_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    talk = Conversation()
    talk.read(0x81, b"kept")
    talk.events[-1] = talk.events[-1]._replace(length=10, is_whole=False)
    player = await played(talk)
    assert player.tape.cut == 1
    assert got(player.submit(read(0x81, 64))) == b"kept" + bytes(6)
    await player.close()


def test_speeds_are_guessed_where_nobody_says_them() -> None:
    def guess(usb: int, packet0: int, *endpoints: Endpoint) -> Speed:
        return tape._guess(usb, packet0, [Configuration(interfaces=(Interface(0, endpoints=endpoints),))], {})

    assert guess(0x0320, 9, Endpoint(0x81, BULK, 1024)) is Speed.SUPER
    assert guess(0x0200, 64, Endpoint(0x81, BULK, 512)) is Speed.HIGH
    assert guess(0x0200, 64, Endpoint(0x81, BULK, 64)) is Speed.FULL
    assert guess(0x0110, 8, Endpoint(0x81, INTERRUPT, 8, 10)) is Speed.LOW


def test_a_tape_without_descriptors_is_none() -> None:
    talk = Conversation()
    assert tape.of(talk.events[4:]) is None
    assert tape.of(talk.events[:2]) is None
    assert tape.of([]) is None
    info: DeviceInfo | None = getattr(tape.of(talk.events), "info", None)
    assert info is not None
