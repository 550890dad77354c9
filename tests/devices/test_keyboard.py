"""A keyboard: what it types, at which pace, what it holds, and the lights that the host sets."""

import asyncio
import logging
import os

import pytest

from tests.devices.hid_host import BOOT, GET_IDLE, GET_REPORT, SET_IDLE, SET_PROTOCOL, SET_REPORT, HidHost, set_idle
from tests.devices.host import opened, turn, write
from usbferry.device import DeviceError
from usbferry.devices.clock import VirtualClock
from usbferry.devices.hid.layouts import LAYOUTS, Untypable
from usbferry.devices.keyboard import Keyboard, Leds
from usbferry.usb.setup import Setup
from usbferry.usb.types import Speed, Status

NOTHING = bytes(8)


def down(*keys: int, modifiers: int = 0) -> bytes:
    return bytes([modifiers, 0, *keys]).ljust(8, b"\0")


def read_back(reports: list[bytes], layout: str = "us") -> str:
    """The text of reports, by the layout's table: a key counts when it goes down."""
    strokes = {}
    for character in LAYOUTS[layout].characters():
        keys = LAYOUTS[layout].strokes(character)
        if len(keys) == 1:
            modifiers = sum(1 << key - 0xE0 for key in keys[0].held)
            strokes[modifiers, keys[0].key] = character
    text, before = "", b""
    for report in reports:
        text += "".join(strokes[report[0], key] for key in report[2:] if key and key not in before)
        before = report[2:]
    return text


@pytest.fixture
async def clock():
    return VirtualClock()


@pytest.fixture
async def keyboard(clock):
    async with opened(Keyboard(delay=0, clock=clock)) as device:
        yield device


@pytest.fixture
async def host(keyboard, clock):
    host = HidHost(keyboard, clock)
    host.ask(set_idle(0))
    return host


# -- typing -----------------------------------------------------------------------------------------------------------


async def test_each_key_is_pressed_and_released(keyboard, host):
    keyboard.type("aB")
    assert await host.run(0.1) == [down(0x04), NOTHING, down(0x05, modifiers=0x02), NOTHING]


async def test_the_same_key_twice_is_two_keys(keyboard, host):
    keyboard.type("aa")
    assert await host.run(0.1) == [down(0x04), NOTHING] * 2


async def test_altgr_and_dead_keys(clock):
    async with opened(Keyboard(layout="de", delay=0, clock=clock)) as keyboard:
        host = HidHost(keyboard, clock)
        host.ask(set_idle(0))
        keyboard.type("€ê")
        assert [r for r in await host.run(0.2) if r != NOTHING] == [
            down(0x08, modifiers=0x40),
            down(0x35),
            down(0x08),
        ]


async def test_the_rate_is_kept(keyboard, host, clock):
    """50 keys a second: each report lasts a hundredth of one."""
    keyboard.type("usbferry")
    await host.run(0.2)
    assert [when for when, _ in host.reports] == pytest.approx([0.01 * i for i in range(16)], abs=0.001)


async def test_a_fast_keyboard_may_type_slowly(clock):
    async with opened(Keyboard(speed=Speed.HIGH, rate=2, delay=0, clock=clock)) as keyboard:
        host = HidHost(keyboard, clock)
        host.ask(set_idle(0))
        keyboard.type("abc")
        assert len(await host.run(1.01)) == 5
        assert [when for when, _ in host.reports] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])


async def test_rate_0_is_as_fast_as_the_host_asks(clock):
    async with opened(Keyboard(speed=Speed.HIGH, rate=0, delay=0, clock=clock)) as keyboard:
        keyboard.type("x" * 100)
        assert read_back(await HidHost(keyboard, clock).run(0.201)) == "x" * 100


async def test_a_long_text_comes_whole(keyboard, host):
    text = "The quick brown fox jumps over the lazy dog; 0123456789 times!\n" * 20
    keyboard.type(text)
    assert read_back(await host.run(len(text) / 50 + 0.1)) == text


async def test_a_host_that_pauses_loses_nothing(keyboard, host):
    keyboard.type("one two three")
    reports = await host.run(0.1)
    host.stop()
    assert await host.run(1) == []
    host._poll()
    assert read_back(reports + await host.run(1)) == "one two three"


async def test_what_cannot_be_typed_types_nothing(keyboard, host):
    with pytest.raises(Untypable, match="'é'"):
        keyboard.type("caf\xe9")
    assert await host.run(0.1) == []


async def test_flushed_means_that_the_last_release_was_fetched(keyboard, host):
    keyboard.type("hi")
    waiting = keyboard.later(keyboard.flushed())
    assert await host.run(0.029) == [down(0x0B), NOTHING, down(0x0C)]
    assert not waiting.done()
    await host.run(0.002)
    assert waiting.result() is True


# -- holding ----------------------------------------------------------------------------------------------------------


async def test_keys_are_held_until_they_are_released(keyboard, host):
    keyboard.press("ctrl", "alt")
    keyboard.tap("del")
    keyboard.release("ctrl")
    keyboard.release()
    assert await host.run(0.1) == [
        down(modifiers=5),
        down(0x4C, modifiers=5),
        down(modifiers=5),
        down(modifiers=4),
        NOTHING,
    ]


async def test_tap_releases_only_its_own_keys(keyboard, host):
    keyboard.press("shift")
    keyboard.tap("a")
    keyboard.release("shift")
    assert await host.run(0.1) == [
        down(modifiers=2),
        down(0x04, modifiers=2),
        down(modifiers=2),
        NOTHING,
    ]


async def test_text_may_be_typed_beside_what_is_held(keyboard, host):
    keyboard.press("ctrl")
    keyboard.type("c")
    keyboard.release()
    assert await host.run(0.1) == [down(modifiers=1), down(0x06, modifiers=1), down(modifiers=1), NOTHING]


async def test_seven_keys_are_too_many(keyboard, host):
    keyboard.press(*"abcdef")
    keyboard.press("g", "shift")
    keyboard.release("a")
    assert await host.run(0.1) == [
        down(4, 5, 6, 7, 8, 9),
        down(1, 1, 1, 1, 1, 1, modifiers=2),
        down(5, 6, 7, 8, 9, 10, modifiers=2),
    ]


async def test_an_unknown_key_presses_none(keyboard, host):
    with pytest.raises(ValueError, match="no key 'contrl'; perhaps"):
        keyboard.press("a", "contrl")
    assert await host.run(0.1) == []


async def test_the_boot_report_is_the_same(keyboard, host):
    host.ask(Setup(*SET_PROTOCOL, BOOT))
    keyboard.type("A")
    assert await host.run(0.1) == [down(0x04, modifiers=2), NOTHING]


async def test_get_report_says_what_is_down_now(keyboard, host):
    get = Setup(*GET_REPORT, 0x0100, 0, 8)
    keyboard.press("a")
    keyboard.press("b")
    assert bytes(host.ask(get).data) == down(0x04)  # the second is not fetched yet
    await host.run(0.02)
    assert bytes(host.ask(get).data) == down(0x04, 0x05)


# -- media keys -------------------------------------------------------------------------------------------------------

MUTE, VOLUME_UP, PLAY_PAUSE = 0xE2, 0xE9, 0xCD
GET_KEYS, GET_MEDIA = Setup(*GET_REPORT, 0x0101, 0, 64), Setup(*GET_REPORT, 0x0102, 0, 64)


def plain(*keys: int, modifiers: int = 0) -> bytes:
    """Report 1."""
    return bytes([1, modifiers, *keys]).ljust(8, b"\0")


def media(*usages: int) -> bytes:
    """Report 2."""
    return b"\2" + b"".join(usage.to_bytes(2, "little") for usage in usages).ljust(6, b"\0")


@pytest.fixture
async def with_media(clock):
    async with opened(Keyboard(delay=0, media=True, clock=clock)) as device:
        yield device


@pytest.fixture
async def media_host(with_media, clock):
    host = HidHost(with_media, clock)
    host.ask(set_idle(0))
    return host


async def test_media_keys_have_a_report_of_their_own(with_media, media_host):
    with_media.type("a")
    with_media.tap("mute")
    with_media.tap("volumeup", "PlayPause")
    typed = [plain(0x04), plain(), media(MUTE), media(), media(PLAY_PAUSE, VOLUME_UP), media()]
    assert await media_host.run(0.2) == typed


async def test_keys_of_both_kinds_together_are_two_reports(with_media, media_host):
    with_media.press("ctrl", "mute")
    with_media.release()
    assert await media_host.run(0.2) == [plain(modifiers=1), media(MUTE), plain(), media()]
    assert await with_media.flushed()


async def test_each_report_is_asked_for_by_its_id(with_media, media_host):
    with_media.press("shift", "b", "mute")
    await media_host.run(0.1)
    assert media_host.ask(GET_KEYS).data == plain(0x05, modifiers=2)
    assert media_host.ask(GET_MEDIA).data == media(MUTE)
    for report in (0x0100, 0x0103):
        assert media_host.ask(Setup(*GET_REPORT, report, 0, 64)).status == Status.STALL


async def test_boot_protocol_knows_neither_ids_nor_media_keys(with_media, media_host):
    media_host.ask(Setup(*SET_PROTOCOL, BOOT))
    with_media.press("b", "mute")
    assert await media_host.run(0.1) == [down(0x05)]
    assert media_host.ask(Setup(*GET_REPORT, 0x0100, 0, 64)).data == down(0x05)
    assert media_host.ask(GET_MEDIA).status == Status.STALL
    media_host.ask(Setup(*SET_REPORT, 0x0200, 0, 1), b"\2")
    assert with_media.leds is Leds.CAPS_LOCK


async def test_lights_come_with_the_id_of_the_keyboards_report(with_media, media_host):
    media_host.ask(Setup(*SET_REPORT, 0x0201, 0, 2), b"\1\2")
    assert with_media.leds is Leds.CAPS_LOCK
    assert media_host.ask(Setup(*GET_REPORT, 0x0201, 0, 64)).data == b"\1\2"
    for report, data in ((0x0201, b"\2"), (0x0201, b"\2\2"), (0x0200, b"\2"), (0x0203, b"\3\2")):
        assert media_host.ask(Setup(*SET_REPORT, report, 0, len(data)), data).status == Status.STALL
    assert with_media.leds is Leds.CAPS_LOCK


async def test_idle_time_is_set_by_the_id_of_any_report(with_media, media_host):
    with_media.press("a")
    assert await media_host.run(0.05) == [plain(0x04)]
    assert media_host.ask(Setup(*SET_IDLE, 5 << 8 | 2)).status == Status.OK
    assert media_host.ask(Setup(*GET_IDLE, 1, 0, 1)).data == b"\5"
    assert set(await media_host.run(0.1)) == {plain(0x04)}  # again and again, though nothing changes
    assert media_host.ask(Setup(*SET_IDLE, 5 << 8 | 3)).status == Status.STALL


async def test_taps_follow_the_text_for_each_host(clock):
    device = Keyboard(delay=0, text="a", taps="enter,mute", media=True, clock=clock)
    for _ in range(2):
        async with opened(device):
            typed = [plain(0x04), plain(), plain(0x28), plain(), media(MUTE), media()]
            assert await HidHost(device, clock).run(0.15) == typed


async def test_a_keyboard_without_media_keys_says_so(keyboard):
    with pytest.raises(ValueError, match="'mute' is a media key; this keyboard has none, they come with the option"):
        keyboard.press("mute")
    with pytest.raises(ValueError, match="'volumeup' is a media key"):
        Keyboard(taps="volumeup")
    with pytest.raises(ValueError, match="there is no key 'mutt'; perhaps mute"):
        Keyboard(media=True, taps="mutt")


def test_its_report_descriptor_has_both_reports():
    """The second collection is Consumer Control; items by hand, HID 1.11 §6.2.2.4."""
    descriptor = Keyboard(media=True).report_descriptor
    assert descriptor.startswith(bytes.fromhex("05 01 09 06 a1 01 85 01"))
    consumer = "c0 05 0c 09 01 a1 01 85 02 05 0c 19 00 2a 9c 02 15 00 26 9c 02 75 10 95 03 81 00 c0"
    assert descriptor.endswith(bytes.fromhex(consumer))


# -- LEDs -------------------------------------------------------------------------------------------------------------


async def test_lights_are_set_over_control(keyboard, host, caplog):
    told = []
    keyboard.leds_changed = told.append
    with caplog.at_level(logging.INFO):
        for value in (0x02, 0x02, 0x03, 0xE0):
            assert host.ask(Setup(*SET_REPORT, 0x0200, 0, 1), bytes([value])).status == Status.OK
    assert told == [Leds.CAPS_LOCK, Leds.CAPS_LOCK | Leds.NUM_LOCK, Leds.NONE]
    assert [r.getMessage() for r in caplog.records] == [
        "Keyboard: LEDs caps lock",
        "Keyboard: LEDs num lock, caps lock",
        "Keyboard: LEDs none",
    ]
    assert keyboard.leds == Leds.NONE


async def test_lights_are_set_over_an_interrupt_endpoint(clock):
    async with opened(Keyboard(interrupt_out=True, clock=clock)) as keyboard:
        assert [e.address for e in keyboard.info.interfaces[0].endpoints] == [0x81, 0x01]
        assert (await keyboard.submit(write(0x01, b"\x04"))).status == Status.OK
        assert keyboard.leds == Leds.SCROLL_LOCK
        assert bytes(HidHost(keyboard, clock).ask(Setup(*GET_REPORT, 0x0200, 0, 1)).data) == b"\x04"


async def test_without_that_endpoint_there_is_one(keyboard):
    assert [e.address for e in keyboard.info.interfaces[0].endpoints] == [0x81]
    assert keyboard.submit(write(0x01, b"\x04")).status == Status.STALL


async def test_a_report_of_another_length_is_refused(keyboard, host):
    assert host.ask(Setup(*SET_REPORT, 0x0200, 0, 2), b"\1\1").status == Status.STALL
    assert host.ask(Setup(*SET_REPORT, 0x0200)).status == Status.STALL


async def test_a_reset_turns_the_lights_off(keyboard, host):
    host.ask(Setup(*SET_REPORT, 0x0200, 0, 1), b"\x02")
    await keyboard.reset()
    assert keyboard.leds == Leds.NONE


# -- text and pipe ----------------------------------------------------------------------------------------------------


async def test_text_is_typed_to_each_host_after_the_delay(clock):
    keyboard = Keyboard(text="hi", delay=0.5, clock=clock)
    for _ in range(2):
        async with opened(keyboard):
            host = HidHost(keyboard, clock)
            host.ask(set_idle(0))
            assert await host.run(0.499) == []
            assert read_back(await host.run(0.1)) == "hi"


async def test_keys_left_down_are_up_for_the_next_host(clock):
    keyboard = Keyboard(delay=0, clock=clock)
    async with opened(keyboard):
        keyboard.press("shift")
        await HidHost(keyboard, clock).run(0.02)
    async with opened(keyboard):
        host = HidHost(keyboard, clock)
        assert bytes(host.ask(Setup(*GET_REPORT, 0x0100, 0, 8)).data) == NOTHING


async def until(host, length):
    """Let a thread or a FIFO bring text: time passes until the host has so many reports."""
    for _ in range(2000):
        if len(host.reports) >= length:
            return [report for _, report in host.reports]
        await host.run(0.01)
        await asyncio.sleep(0)
    raise AssertionError(f"{len(host.reports)} reports, not {length}")


async def test_a_fifo_is_typed_as_it_comes(tmp_path, clock):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with opened(Keyboard(pipe=str(fifo), delay=0, clock=clock)) as keyboard:
        host = HidHost(keyboard, clock)
        host.ask(set_idle(0))
        fifo.write_text("Hello, ")
        assert read_back(await until(host, 14)) == "Hello, "
        fifo.write_text("world\n")
        assert read_back(await until(host, 26)) == "Hello, world\n"


async def test_a_file_is_typed_to_each_host(tmp_path, clock):
    (tmp_path / "file").write_text("abc")
    keyboard = Keyboard(pipe=str(tmp_path / "file"), delay=0, clock=clock)
    for _ in range(2):
        async with opened(keyboard):
            host = HidHost(keyboard, clock)
            host.ask(set_idle(0))
            assert read_back(await until(host, 6)) == "abc"


async def test_what_a_fifo_holds_waits_for_the_next_host(tmp_path, clock):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    keyboard = Keyboard(pipe=str(fifo), delay=0, clock=clock)
    await keyboard.plug()
    fifo.write_text("abcdef")
    async with opened(keyboard):
        host = HidHost(keyboard, clock)
        host.ask(set_idle(0))
        first = read_back((await until(host, 4))[:4])
    async with opened(keyboard):
        host = HidHost(keyboard, clock)
        host.ask(set_idle(0))
        rest = read_back(await until(host, 6))
    await keyboard.unplug()
    assert first == "ab"
    assert rest == "def"  # the key that was under way went with the first host


async def test_characters_of_a_pipe_that_cannot_be_typed_are_named_and_left_out(tmp_path, clock, caplog):
    (tmp_path / "file").write_text("aéb")
    async with opened(Keyboard(pipe=str(tmp_path / "file"), delay=0, clock=clock)) as keyboard:
        host = HidHost(keyboard, clock)
        host.ask(set_idle(0))
        assert read_back(await until(host, 4)) == "ab"
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "Keyboard: the keyboard layout 'us' cannot type 'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)"
    ]


async def test_it_may_be_closed_while_it_types(tmp_path, clock):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with opened(Keyboard(pipe=str(fifo), delay=0, clock=clock)) as keyboard:
        fifo.write_text("text" * 100)
        host = HidHost(keyboard, clock)
        await host.run(0.05)
    await turn()
    clock.advance(10)


# -- options ----------------------------------------------------------------------------------------------------------


async def test_bad_options_are_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="no layout 'dvorak'; there are: us, uk, de, fr"):
        Keyboard(layout="dvorak")
    with pytest.raises(Untypable):
        Keyboard(text="ß")
    with pytest.raises(DeviceError, match="mkfifo"):
        await Keyboard(pipe=str(tmp_path / "none")).plug()
    for options in ({"delay": -1}, {"rate": -1}, {"rate": float("inf")}, {"delay": float("nan")}):
        with pytest.raises(ValueError, match="0 or more"):
            Keyboard(**options)
    with pytest.raises(ValueError, match="low, full, high"):
        Keyboard(speed=Speed.SUPER)


def test_the_layout_is_the_country():
    assert [Keyboard(layout=name).info.interfaces[0].extra[0][4] for name in LAYOUTS] == [33, 32, 9, 8]


def test_what_it_is():
    info = Keyboard(serial="4711").info
    assert (info.device.vendor_id, info.device.product_id) == (0x1209, 0x0001)
    assert (info.speed, info.classes, info.serial) == (Speed.LOW, ((3, 1, 1),), "4711")
