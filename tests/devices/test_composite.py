"""Several devices in one: each keeps its numbers to itself, and hears of what is meant for it alone."""

from __future__ import annotations

import asyncio

import pytest

from tests.devices.host import ask, control, opened, read, turn, write
from usbferry.backends.virtual import VirtualSource, described
from usbferry.device import Busy, Claimant, DeviceError
from usbferry.devices import cdc
from usbferry.devices.composite import Composite
from usbferry.devices.dfu import Dfu
from usbferry.devices.disk import Disk
from usbferry.devices.ftdi import Ftdi
from usbferry.devices.headset import Headset
from usbferry.devices.keyboard import Keyboard, Leds
from usbferry.devices.microphone import Microphone
from usbferry.devices.midi import Midi
from usbferry.devices.printer import Printer
from usbferry.devices.renumber import Numbering
from usbferry.devices.serial import Serial
from usbferry.devices.uas import Uas
from usbferry.devices.usbtmc import Usbtmc
from usbferry.devices.virtual import VirtualDevice, endpoint, request
from usbferry.devices.zero import Zero
from usbferry.registry import DEVICES
from usbferry.usb import build, descriptors
from usbferry.usb.setup import Setup, clear_halt, get_descriptor, set_configuration, set_interface
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.tree import DeviceDescriptor, Interface
from usbferry.usb.types import Speed, Status

MIB = 1 << 20
ME = Claimant("local")
NEEDED = {"disk": "&{0}.size=1M", "uas": "&{0}.size=1M"}


def settings(device: VirtualDevice) -> tuple[Interface, ...]:
    return device.info.configurations[0].interfaces


def addresses(device: VirtualDevice) -> list[list[int]]:
    """Of each setting."""
    return [[e.address for e in one.endpoints] for one in settings(device)]


async def ended(answer: Completion | asyncio.Future[Completion]) -> Completion:
    if isinstance(answer, Completion):
        return answer
    async with asyncio.timeout(10):
        return await answer


async def asked(device: VirtualDevice, setup: Setup, data: bytes = b"") -> Completion:
    return await ended(ask(device, setup, data))


async def string(device: VirtualDevice, index: int) -> str:
    raw = (await asked(device, get_descriptor(3, index, language=0x0409))).data
    return bytes(raw[2:]).decode("utf-16-le")


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_interfaces_follow_one_another_and_endpoints_keep_what_is_free():
    dock = Composite([Keyboard(), Serial(), Disk(size=MIB)])
    assert [one.number for one in settings(dock)] == [0, 1, 2, 3]
    assert addresses(dock) == [[0x81], [0x82], [0x01, 0x83], [0x84, 0x02]]
    (function,) = dock.info.configurations[0].associations
    assert (function.first, function.count, function.function_class) == (1, 2, cdc.COMMUNICATIONS)
    device = dock.info.device
    assert (device.device_class, device.device_subclass, device.device_protocol) == (0xEF, 2, 1)
    assert dock.info.configurations[0].max_power == 150
    assert settings(dock)[1].extra[1] == cdc.call_management(2)
    assert settings(dock)[1].extra[3] == cdc.union(1, 2)


def test_one_part_is_what_it_was_alone():
    alone = Disk(size=MIB)
    assert settings(Composite([alone])) == settings(alone)
    assert Composite([Disk(size=MIB)]).info.device.device_class == 0


ALONE = {"composite", "ftdi", "many-configurations", "many-endpoints", "mtp", "zero"}  # no two of one in a device


@pytest.mark.parametrize("kind", sorted(set(DEVICES) - ALONE))
def test_two_of_a_kind_are_told_apart_in_all_that_descriptors_name(kind):
    """Whatever the first has, the second has it elsewhere: the bytes differ in numbers alone, and parse as one tree."""
    needed = NEEDED.get(kind, "")
    both = described(f"virtual:composite?parts={kind}+{kind}{needed.format(kind)}{needed.format(kind + '2')}")
    raw = build.configuration(both.info.configurations[0])
    assert descriptors.parse_configuration(raw) == both.info.configurations[0]
    first, second = (part.info.configurations[0] for part in both.parts)
    assert first == second
    count = len(first.interfaces)
    ours = both.info.configurations[0].interfaces
    for own, one, other in zip(first.interfaces, ours[:count], ours[count:], strict=True):
        assert one == own or one.string != own.string or one.extra != own.extra
        assert other.number == own.number + len({i.number for i in first.interfaces})
        assert not {e.address for e in one.endpoints} & {e.address for e in other.endpoints}
        assert [len(raw) for raw in other.extra] == [len(raw) for raw in own.extra]
    several = len({i.number for i in first.interfaces}) > 1
    assert [a.count for a in both.info.configurations[0].associations] == ([ours[-1].number // 2 + 1] * 2) * several


def test_what_class_specific_descriptors_name():
    camera = described("virtual:composite?parts=keyboard+camera+ethernet+microphone&microphone.version=1")
    raws = {one.number: one.extra for one in settings(camera) if not one.alternate}
    ends = {one.number: [e.address for e in one.endpoints] for one in settings(camera)}
    assert raws[1][0][12:] == bytes([2])  # UVC: the streaming interface
    assert raws[2][0][6] in ends[2]  # and its endpoint
    assert raws[3][1] == cdc.union(3, 4)
    address = raws[3][2][3]
    assert camera.texts[address] == camera.parts[2].mac.replace(":", "").upper()
    assert raws[5][0][8:] == bytes([6])  # UAC 1.0: the streaming interface


def test_audio_endpoints_name_their_feedback():
    headset = Headset(version=1, speed=Speed.FULL)
    dock = Composite([Serial(speed=Speed.FULL), headset])
    (out, back), *_ = (one.endpoints for one in settings(dock) if len(one.endpoints) == 2 and one.alternate)
    assert out.synch_address == back.address != headset.info.configurations[0].interfaces[2].endpoints[1].address


def test_midi_and_its_control_interface():
    dock = Composite([Keyboard(), Midi(speed=Speed.HIGH)])
    control_of_it, port = settings(dock)[1:]
    assert control_of_it.extra[0][8:] == bytes([port.number])
    assert [(a.first, a.count, a.function_class) for a in dock.info.configurations[0].associations] == [(1, 2, 1)]


async def test_strings_are_those_of_the_parts():
    dock = Composite([Ftdi(serial="A"), Keyboard()], serial="DOCK1")
    async with opened(dock):
        assert [await string(dock, i) for i in (1, 2, 3)] == ["usbferry", "FT232R USB UART + Keyboard", "DOCK1"]
        assert await string(dock, settings(dock)[0].string) == "FT232R USB UART"
    both = Composite([Serial(), Serial()])
    async with opened(both):
        names = [await string(both, a.string) for a in both.info.configurations[0].associations]
    assert names == ["Serial port", "Serial port"]


# -- speeds -----------------------------------------------------------------------------------------------------------


def test_strings_have_an_end():
    numbering = Numbering({index: str(index) for index in range(1, 255)})
    assert numbering.text("the last") == 255
    with pytest.raises(ValueError, match="a device has 255 strings, and they are taken"):
        numbering.text("one more")


def test_all_are_at_the_highest_speed_of_one():
    keyboard = Keyboard()
    dock = Composite([keyboard, Serial()])
    assert {dock.speed, keyboard.info.speed, dock.info.speed} == {Speed.HIGH}
    assert settings(dock)[0].endpoints[0].interval_us(Speed.HIGH) == 1000
    assert Composite([Keyboard(), Midi()]).speed is Speed.FULL
    assert Composite([Keyboard(), Keyboard()]).speed is Speed.LOW


def test_a_text_gives_its_speed_to_all_that_have_one():
    dock = described("virtual:composite?parts=keyboard+serial&speed=full")
    assert {part.info.speed for part in dock.parts} == {Speed.FULL}
    slowest = described("virtual:composite?parts=keyboard+serial+ftdi")  # it knows no other
    assert {part.info.speed for part in slowest.parts} == {Speed.FULL}
    assert described("virtual:composite?parts=keyboard+mouse").speed is Speed.HIGH


# -- data and requests ------------------------------------------------------------------------------------------------


async def test_each_part_moves_its_own_data():
    keyboard = Keyboard(delay=0, rate=0)
    dock = Composite([keyboard, Serial(), Serial()])
    (_, (one_in, *_)) = addresses(dock)[0], addresses(dock)[2]
    (_, first_pair, _, second_pair) = addresses(dock)[1:]
    async with opened(dock):
        keyboard.type("a")
        assert bytes((await ended(dock.submit(read(0x81, 8)))).data) == bytes.fromhex("0000040000000000")
        for out_address, in_address in (first_pair, second_pair):
            said = f"for {in_address:02x}".encode()
            waiting = dock.submit(read(in_address, 64))
            assert (await ended(dock.submit(write(out_address, said)))).status == Status.OK
            assert (await ended(waiting)).data == said
    assert one_in == first_pair[0]


async def test_requests_reach_the_part_whose_interface_they_name():
    one, other, port = Keyboard(), Keyboard(), Serial()
    dock = Composite([one, port, other])
    async with opened(dock):
        assert (await asked(dock, Setup(0x81, 6, 0x2200, 0, 255))).data == one.report_descriptor
        assert (await asked(dock, Setup(0x81, 6, 0x2200, 1, 255))).status == Status.STALL
        assert (await asked(dock, Setup(0x21, 9, 0x0200, 3, 1), b"\x02")).status == Status.OK
        assert (one.leds, other.leds) == (Leds.NONE, Leds.CAPS_LOCK)
        coding = cdc.LineCoding(115200, 7, "E", 2)
        assert (await asked(dock, Setup(0x21, 0x20, 0, 1, 7), coding.pack())).status == Status.OK
        assert port.coding == coding
        assert (await asked(dock, Setup(0x21, 0x20, 0, 2, 7), coding.pack())).status == Status.STALL
        assert (await asked(dock, Setup(0x21, 0x20, 0, 9, 7), coding.pack())).status == Status.STALL


async def test_requests_reach_the_part_whose_endpoint_they_name():
    meter = Usbtmc()
    dock = Composite([Serial(), meter, Microphone(version=1, speed=Speed.HIGH)])
    out, *_ = (e.address for e in settings(dock)[2].endpoints)
    sound = settings(dock)[-1].endpoints[0].address
    async with opened(dock):
        assert bytes((await asked(dock, Setup(0xA2, 2, 0, out, 8))).data)[:1] == b"\x01"
        assert (await asked(dock, Setup(0xA2, 2, 0, 0x01, 8))).status == Status.STALL  # the port's
        await asked(dock, set_interface(settings(dock)[-1].number, 1))
        assert (await asked(dock, Setup(0x22, 1, 0x0100, sound, 3), (44100).to_bytes(3, "little"))).actual == 3
        rate = (await asked(dock, Setup(0xA2, 0x81, 0x0100, sound, 3))).data
        assert int.from_bytes(rate, "little") == 44100


async def test_a_printers_interface_stands_in_the_high_byte():
    dock = Composite([Keyboard(), Printer(), Printer(product="Another")])
    async with opened(dock):
        for number, part in enumerate(dock.parts[1:], 1):
            said = bytes((await asked(dock, Setup(0xA1, 0, 0, number << 8, 255))).data)
            assert said[2:].decode() == part.id
        assert (await asked(dock, Setup(0xA1, 0, 0, 0, 255))).status == Status.STALL
        assert (await asked(dock, Setup(0x23, 2, 0, 1))).status == Status.OK  # to "other", as version 1.0 had it
        assert (await asked(dock, Setup(0x23, 2, 0, 0))).status == Status.STALL


async def test_requests_of_the_whole_device_reach_who_knows_them():
    chip = Ftdi()
    dock = Composite([Keyboard(), chip])
    async with opened(dock):
        assert (await asked(dock, Setup(0x40, 9, 77, 0))).status == Status.OK
        assert (await asked(dock, Setup(0xC0, 10, 0, 0, 1))).data == bytes([77])
        assert (await asked(dock, Setup(0xC0, 0x77, 0, 0, 1))).status == Status.STALL


async def test_notifications_name_the_interface_that_the_host_knows():
    dock = Composite([Keyboard(), Serial()])
    notify = settings(dock)[1].endpoints[0].address
    async with opened(dock):
        state = bytes((await ended(dock.submit(read(notify, 16)))).data)
    assert state == cdc.serial_state(1, cdc.Signals.DSR | cdc.Signals.DCD)


async def test_settings_halts_and_configurations_are_their_parts():
    sound, port = Microphone(), Serial()
    dock = Composite([port, sound])
    number, out = settings(dock)[-1].number, settings(dock)[1].endpoints[0].address
    async with opened(dock):
        assert (await asked(dock, set_interface(number, 1))).status == Status.OK
        assert sound.info.alternates == {1: 1}
        assert (await asked(dock, Setup(0x81, 10, 0, number, 1))).data == b"\1"
        port.halt(0x01)
        assert (await asked(dock, Setup(0x82, 0, 0, out, 2))).data == b"\1\0"
        assert (await ended(dock.submit(write(out, b"x")))).status == Status.STALL
        assert (await asked(dock, clear_halt(out))).status == Status.OK
        assert (await ended(dock.submit(write(out, b"x")))).status == Status.OK
        assert (await asked(dock, set_configuration(0))).status == Status.OK
        assert (port.info.configuration, sound.info.configuration, sound.info.alternates) == (0, 0, {})
        assert (await ended(dock.submit(write(out, b"x")))).status == Status.STALL
        assert (await asked(dock, set_configuration(1))).status == Status.OK
        assert (port.info.configuration, sound.info.configuration) == (1, 1)


async def test_streams_are_their_parts():
    dock = Composite([Disk(size=MIB, speed=Speed.SUPER), Uas(size=MIB, speed=Speed.SUPER)])
    status, data_in = (next(e.address for e in settings(dock)[2].endpoints if e.extra[0][2] == u) for u in (2, 3))
    async with opened(dock):
        await asked(dock, set_interface(1, 1))
        assert (await ended(dock.alloc_streams((status, data_in), 8))).status == Status.OK
        waiting = dock.submit(Transfer(status, 64, stream_id=3))
        assert isinstance(waiting, asyncio.Future)
        assert (await ended(dock.alloc_streams((status, settings(dock)[0].endpoints[0].address), 8))).status != 0
        assert (await ended(dock.free_streams((status, data_in)))).status == Status.OK
        assert (await ended(waiting)).status == Status.SHUTDOWN


class Slow(VirtualDevice):
    """Takes its time over a request."""

    descriptor = DeviceDescriptor(0x1209, 0x0001)
    product = "Slow"

    def interfaces(self) -> tuple[Interface, ...]:
        return (Interface(0, endpoints=(self.bulk(0x81),)),)

    @request(0xC1, 1)
    def _wait(self, setup: Setup, data: bytes) -> asyncio.Future[bytes | None]:
        self.asked = setup
        self.answer = asyncio.get_running_loop().create_future()
        return self.answer

    @endpoint(0x81)
    def _fail(self, transfer: Transfer) -> None:
        raise RuntimeError("on purpose")


async def test_a_request_may_wait_and_a_part_may_fail(caplog):
    slow = Slow()
    dock = Composite([Keyboard(), slow])
    async with opened(dock):
        waiting = ask(dock, Setup(0xC1, 1, 7, 0x0501, 4))
        await turn()
        assert (slow.asked.value, slow.asked.index) == (7, 0x0500)
        slow.answer.set_result(b"done")
        assert (await ended(waiting)).data == b"done"
        assert (await ended(dock.submit(read(settings(dock)[1].endpoints[0].address, 8)))).status == Status.FAILED
    assert "on purpose" in caplog.text


async def test_what_a_part_never_answers_is_cancelled():
    dock = described("virtual:composite?parts=keyboard+serial&fault=late:0x82:seconds=inf")
    dock.parts[0].faults.late(0, seconds=float("inf"), request=6)
    async with opened(dock):
        request_of_it = control(Setup(0x81, 6, 0x2200, 0, 255))
        for transfer in (request_of_it, read(0x82, 8), read(0x81, 8)):
            answer = dock.submit(transfer)
            await turn()
            dock.cancel(transfer)
            assert (await ended(answer)).status == Status.CANCELLED


# -- faults -----------------------------------------------------------------------------------------------------------


async def test_a_fault_is_at_the_endpoint_that_the_host_sees():
    dock = described("virtual:composite?parts=serial+serial&fault=stall:0x83")
    pair = addresses(dock)[3]
    assert pair[1] == 0x83
    async with opened(dock):
        assert (await ended(dock.submit(read(0x83, 8)))).status == Status.STALL
        assert dock.is_halted(0x83)
        assert not dock.is_halted(0x81)
        await asked(dock, clear_halt(0x83))
        await ended(dock.submit(write(pair[0], b"x")))
        assert (await ended(dock.submit(read(0x83, 8)))).data == b"x"
    with pytest.raises(ValueError, match="there is no endpoint 0x8f; there are: 0x01"):
        described("virtual:composite?parts=keyboard+serial&fault=stall:0x8f")


async def test_it_leaves_after_so_many_transfers_of_all_its_parts():
    source = VirtualSource("virtual:composite?parts=serial+serial&fault=vanish:after=3:away=0:become=1209:0010")
    dock = await source.open("", ME)
    outs = [pair[0] for pair in (addresses(dock)[1], addresses(dock)[3])]
    said = [(await ended(dock.submit(write(outs[i % 2], b"x")))).status for i in range(5)]
    assert said == [Status.OK] * 3 + [Status.GONE] * 2
    await dock.close()
    await turn()
    assert (await source.list())[0].ids == "1209:0010"
    await source.close()


async def test_faults_are_over_once_they_are_cleared():
    dock = Composite([Serial(), Keyboard()])
    dock.faults.stall(0x81, times=0)
    dock.faults.clear()
    async with opened(dock):
        await ended(dock.submit(write(0x01, b"x")))
        assert (await ended(dock.submit(read(0x81, 8)))).data == b"x"


# -- life -------------------------------------------------------------------------------------------------------------


async def test_a_part_that_turns_into_something_else_takes_all_with_it():
    source = VirtualSource("virtual:composite", Composite([Serial(), Dfu()]))
    (runtime,) = await source.list()
    changes = source.watch()
    dock = await source.open("", ME)
    number = settings(dock)[-1].number
    assert settings(dock)[-1].interface_protocol == 1
    assert (await asked(dock, Setup(0x21, 0, 1000, number))).status == Status.OK
    async with asyncio.timeout(10):
        assert await dock.gone == "a part of it left"
        await dock.close()
        assert (await anext(changes)).info is None
        back = (await anext(changes)).info
    assert runtime.configurations[0].interfaces[-1].interface_protocol == 1
    assert back.configurations[0].interfaces[-1].interface_protocol == 2
    dock = await source.open("", ME)
    async with asyncio.timeout(10):
        assert bytes((await asked(dock, Setup(0xA1, 5, 0, number, 1))).data) == b"\2"  # dfuIDLE
        await ended(dock.submit(write(0x01, b"x")))
        assert (await ended(dock.submit(read(0x81, 8)))).data == b"x"
    await dock.close()
    await source.close()


async def test_one_that_cannot_be_opened_leaves_none_open(tmp_path):
    image = tmp_path / "image"
    holder, port = Disk(image=image, size=MIB), Serial()
    dock = Composite([port, Disk(image=image)])
    async with opened(holder):
        with pytest.raises(DeviceError):
            await dock.open()
    assert not port.is_open
    async with opened(dock):
        with pytest.raises(Busy):
            await port.open()
    assert not port.is_open


# -- what makes no sense ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("parts=keyboard, disk", r"parts=keyboard, disk: write \+ between them, as parts=keyboard\+disk"),
        ("", r"it has no parts; name some, as parts=keyboard\+serial"),
        ("parts=keyboard+dsk", r"no virtual device 'dsk'; did you mean disk\? There are: broken, camera"),
        ("parts=keyboard&disk.size=1M", "disk.size: there is no part 'disk'; there are: keyboard"),
        ("parts=serial+serial&serial3.to=pty", "there is no part 'serial3'; there are: serial, serial2"),
        ("parts=keyboard&keyboard.txt=a", "keyboard has no option 'txt'"),
        ("parts=keyboard&text=a", "composite has no option 'text'; it has: parts, .*fault, PART.OPTION"),
        ("parts=serial&serial.fault=stall:0x81", "faults are those of the whole: fault="),
        ("parts=disk", "disk: .*size"),
        ("parts=serial&speed=low", "serial: low speed has no bulk endpoints"),
        (
            "parts=serial+ftdi&speed=high",
            "FT232R USB UART is at full speed, and the whole at high: make it with the speed",
        ),
        ("parts=keyboard&speed=super", "keyboard: it runs at low, full, high speed alone"),
        ("parts=zero+zero", "have the same request of the whole device"),
        ("parts=keyboard&id=12345:1", "id: '12345:1' is no VENDOR:PRODUCT, such as 1209:0010"),
        ("parts=" + "+".join(["keyboard"] * 16), "16 IN endpoints, and a device has 15 at most: leave some out"),
        ("parts=" + "+".join(["printer"] * 16), "have 16 IN endpoints"),
    ],
)
def test_what_cannot_be(query, says):
    with pytest.raises(ValueError, match=says):
        described(f"virtual:composite?{query}")


def test_what_a_program_cannot_put_together():
    keyboard = Keyboard()
    with pytest.raises(ValueError, match="Keyboard is in it twice: make two of them"):
        Composite([keyboard, keyboard])
    with pytest.raises(ValueError, match="a composite device is no part of another: take its parts"):
        Composite([Composite([keyboard]), Serial()])
    with pytest.raises(ValueError, match="it has no parts"):
        Composite([])
    with pytest.raises(ValueError, match="make it with the speed of the others"):
        Composite([Zero(), Serial(speed=Speed.FULL)])


def test_ids_and_names():
    dock = described("virtual:composite?parts=keyboard+mouse&id=0403:6001&product=Dock&serial=1")
    assert (dock.info.ids, dock.info.product, dock.info.serial) == ("0403:6001", "Dock", "1")
    assert Composite([Keyboard()]).info.ids == "1d6b:0104"
