"""The kernel's own HID drivers: what we type and move arrives as input events, and the lights come back."""

import os
import re
import subprocess
import sys
import time

import pytest

from tests import evdev, xkb
from tests.kernel.guest import CHECKOUT
from tests.kernel.steps import importing, unexpected
from usbferry.devices.hid.layouts import LAYOUTS

EVENTS = f"/usr/bin/python3 -I -S {CHECKOUT / 'tests' / 'kernel' / 'events.py'}"
KEY_ENTER, BTN_LEFT, BTN_RIGHT, BTN_MIDDLE, BTN_SIDE, BTN_EXTRA = 28, 0x110, 0x111, 0x112, 0x113, 0x114
KEY_LEFTCTRL, KEY_MUTE, KEY_VOLUMEDOWN, KEY_VOLUMEUP = 29, 113, 114, 115
BTN_STYLUS2 = 0x14C
EV_KEY, EV_REL, EV_ABS = 1, 2, 3
REL_X, REL_Y, REL_HWHEEL, REL_WHEEL = 0, 1, 6, 8
SYN_DROPPED = (0, 3, 0)

# vhci_hcd says so at error level of every full-speed device (vhci_hub_control, drivers/usb/usbip/vhci_hcd.c).
FULL_SPEED = "vhci_device speed not set"

pytestmark = pytest.mark.usefixtures("drivers")


@pytest.fixture(scope="module")
def drivers(guest):
    guest.run("modprobe -a vhci-hcd usbhid hid-generic hid-multitouch evdev").ok()


class Reader:
    """The guest reads events of devices."""

    def __init__(self, guest, words):
        self.step = guest.start(f"{EVENTS} {words}", 60)
        wait_for(lambda: "ready" in self.step.output() or self.step.is_over())
        assert "ready" in self.step.output(), self.step.wait()

    def events(self):
        """(device, type, code, value) of each, when it has ended. Losses would show as SYN_DROPPED."""
        lines = self.step.wait().ok().splitlines()
        found = [
            (line.split()[0], *map(int, line.split()[1:])) for line in lines if re.fullmatch(r"\S+( -?\d+){3}", line)
        ]
        assert not any(event[1:] == SYN_DROPPED for event in found)
        return found


def wait_for(condition, limit=30):
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def keys(events, device=None):
    return [(code, value) for name, kind, code, value in events if kind == EV_KEY and device in (None, name)]


# -- typing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "speed", "count"), [("us", "low", 97), ("uk", "full", 100), ("de", "high", 191), ("fr", "low", 155)]
)
def test_every_character_arrives(guest, serve, fifo, layout, speed, count):
    text = "".join(c for c in LAYOUTS[layout].characters() if c not in "\n\b\x1b\x7f") + "\n"
    assert len(text) == count
    server = serve(f"virtual:keyboard?layout={layout}&speed={speed}&pipe={fifo}&delay=0")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        reader = Reader(guest, f"{attached.device} until={KEY_ENTER}")
        fifo.write_text(text)
        typed = keys(reader.events())
    assert evdev.text(layout, typed) == text
    if not xkb.missing():
        assert xkb.Desktop(layout).write(typed) == text
    assert unexpected(guest, FULL_SPEED) == []


def test_text_of_the_command_line_is_typed_by_itself(guest, serve):
    server = serve("virtual:keyboard?text=1+1%20=%202!%0A&delay=8")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        typed = keys(Reader(guest, f"{attached.device} until={KEY_ENTER}").events())
    assert evdev.text("us", typed) == "1+1 = 2!\n"
    assert unexpected(guest) == []


def test_media_keys_arrive_beside_the_text(guest, serve):
    """One device to the kernel, which tells the reports by their ids, and sets the lights by that of the first."""
    server = serve("virtual:keyboard?media&text=aB&taps=mute,ctrl,volumeup,volumedown&delay=8", "-v", "-v")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        pressed = keys(Reader(guest, f"{attached.device} until={KEY_VOLUMEDOWN}").events())
        Reader(guest, f"{attached.device} led=1:1").step.wait().ok()
        wait_for(lambda: "caps lock" in lights(server))
    media = [key for key in pressed if key[0] in (KEY_MUTE, KEY_VOLUMEUP, KEY_VOLUMEDOWN)]
    assert media == [(code, value) for code in (KEY_MUTE, KEY_VOLUMEUP, KEY_VOLUMEDOWN) for value in (1, 0)]
    rest = [key for key in pressed if key not in media]
    assert (evdev.text("us", rest), rest[-2:]) == ("aB", [(KEY_LEFTCTRL, 1), (KEY_LEFTCTRL, 0)])
    assert unexpected(guest) == []


PROGRAM = """
import asyncio
from usbferry.backends.virtual import VirtualSource
from usbferry.devices.keyboard import Keyboard
from usbferry.registry import load_exporter
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving

async def main():
    keyboard = Keyboard(delay=0)
    async with serving(Catalog()) as server:
        await server.offer(VirtualSource("virtual:keyboard", keyboard))
        (_, port), = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
        print(port, flush=True)
        await asyncio.to_thread(input)
        keyboard.press("shift", "a")
        keyboard.release("a")
        keyboard.type("b")
        keyboard.release()
        keyboard.type("c\\n")
        print("fetched" if await keyboard.flushed() else "lost", flush=True)
        await asyncio.to_thread(input)

asyncio.run(main())
"""


def test_a_python_program_types_and_knows_when_it_was_fetched(guest):
    guest.mark()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=pipe, stdout=pipe, text=True, cwd=CHECKOUT) as program:
        port = int(program.stdout.readline())
        with importing(guest, port, "1-1") as attached:
            reader = Reader(guest, f"{attached.device} until={KEY_ENTER}")
            program.stdin.write("\n")
            program.stdin.flush()
            assert program.stdout.readline() == "fetched\n"
            assert evdev.text("us", keys(reader.events())) == "ABc\n"
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.wait(20) == 0
    assert unexpected(guest) == []


# -- lights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupt_out", ["no", "yes"], ids=["over control", "over interrupt OUT"])
def test_lights_come_back(guest, serve, interrupt_out):
    server = serve(f"virtual:keyboard?interrupt_out={interrupt_out}", "-v", "-v")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        Reader(guest, f"{attached.device} led=1:1 led=2:1 led=1:0 led=0:1").step.wait().ok()
        said = ["caps lock", "caps lock, scroll lock", "scroll lock", "num lock, scroll lock"]
        wait_for(lambda: lights(server)[:4] == said)
    over_interrupt = " out 01 1" in server.log()
    assert over_interrupt is (interrupt_out == "yes")
    assert unexpected(guest) == []


def lights(server):
    return re.findall(r"Keyboard: LEDs (.+)", server.log())


# -- mouse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", ["low", "high"])
def test_movements_buttons_and_wheels_arrive(guest, serve, fifo, speed):
    server = serve(f"virtual:mouse?speed={speed}&pipe={fifo}&delay=0")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        reader = Reader(guest, f"{attached.device} until={BTN_EXTRA}")
        fifo.write_text(
            "move 10 -5\nmove -32767 1\nmove 100000 -100000\nwheel -1\nhwheel 2\n"
            "click left\npress right\nmove 1 0\nrelease right\nclick middle\nclick back\nclick forward\n"
        )
        events = [event[1:] for event in reader.events()]
    ways = [(code, value) for kind, code, value in events if kind == EV_REL and code in (REL_X, REL_Y)]
    assert ways[:4] == [(REL_X, 10), (REL_Y, -5), (REL_X, -32767), (REL_Y, 1)]
    assert ways[4:] == [(REL_X, 25_000), (REL_Y, -25_000)] * 4 + [(REL_X, 1)]
    turns = [(code, value) for kind, code, value in events if kind == EV_REL and code in (REL_WHEEL, REL_HWHEEL)]
    assert turns == [(REL_WHEEL, -1), (REL_HWHEEL, 2)]
    pressed = [(code, value) for kind, code, value in events if kind == EV_KEY]
    assert pressed == [
        (button, value) for button in (BTN_LEFT, BTN_RIGHT, BTN_MIDDLE, BTN_SIDE, BTN_EXTRA) for value in (1, 0)
    ]
    order = [(kind, code) for kind, code, _ in events if (kind, code) in ((EV_KEY, BTN_RIGHT), (EV_REL, REL_X))]
    assert order[-3:] == [(EV_KEY, BTN_RIGHT), (EV_REL, REL_X), (EV_KEY, BTN_RIGHT)]
    assert unexpected(guest) == []


# -- gamepad, touch screen, tablet ------------------------------------------------------------------------------------

BTN_SOUTH, BTN_THUMBR, BTN_TOUCH, BTN_TOOL_PEN, BTN_TOOL_RUBBER, BTN_STYLUS = 0x130, 0x13E, 0x14A, 0x140, 0x141, 0x14B
ABS_X, ABS_Y, ABS_Z, ABS_RX, ABS_RY, ABS_RZ, ABS_HAT0X, ABS_HAT0Y = 0, 1, 2, 3, 4, 5, 0x10, 0x11
ABS_PRESSURE, ABS_TILT_X, ABS_TILT_Y = 0x18, 0x1A, 0x1B
ABS_MT_SLOT, ABS_MT_POSITION_X, ABS_MT_POSITION_Y, ABS_MT_TRACKING_ID = 0x2F, 0x35, 0x36, 0x39


def told(guest, server, fifo, until, lines):
    """(type, code, value) of each event that these lines make, until a key is released."""
    with importing(guest, server.port, "1-1") as attached:
        reader = Reader(guest, f"{attached.device} until={until}")
        fifo.write_text(lines)
        return [event[1:] for event in reader.events() if event[1] in (EV_KEY, EV_ABS)]


def test_a_gamepad_is_where_games_look_for_it(guest, serve, fifo):
    server = serve(f"virtual:gamepad?pipe={fifo}&delay=0", "-v")
    guest.mark()
    lines = (
        "tap a\nstick left 0.5 -1\nstick right -1 1\ntrigger left 1\ntrigger right 0.5\ndpad up-left\ndpad\ntap rs\n"
    )
    events = told(guest, server, fifo, BTN_THUMBR, lines)
    assert [event[1:] for event in events if event[0] == EV_KEY] == [
        (button, value) for button in (BTN_SOUTH, BTN_THUMBR) for value in (1, 0)
    ]
    assert [event[1:] for event in events if event[0] == EV_ABS] == [
        *((ABS_X, 16384), (ABS_Y, -32767), (ABS_RX, -32767), (ABS_RY, 32767)),
        *((ABS_Z, 255), (ABS_RZ, 128)),
        *((ABS_HAT0X, -1), (ABS_HAT0Y, -1), (ABS_HAT0X, 0), (ABS_HAT0Y, 0)),
    ]
    with importing(guest, server.port, "1-1") as attached:
        Reader(guest, f"{attached.device} led=8:1").step.wait().ok()  # LED_MISC
        wait_for(lambda: "Gamepad: light on" in server.log())
    assert unexpected(guest, FULL_SPEED) == []


def test_fingers_arrive_each_in_its_slot(guest, serve, fifo):
    server = serve(f"virtual:touch?pipe={fifo}&delay=0&width=1280&height=800")
    guest.mark()
    lines = "down 0 100 200\ndown 1 1279 799\nmove 1 640 400\nup 0\nup 1\n"
    events = told(guest, server, fifo, BTN_TOUCH, lines)
    slots, slot = {0: [], 1: []}, 0
    for _, code, value in (event for event in events if event[0] == EV_ABS):
        if code == ABS_MT_SLOT:
            slot = value
        elif code in (ABS_MT_POSITION_X, ABS_MT_POSITION_Y):
            slots[slot].append(value)
        elif code == ABS_MT_TRACKING_ID:
            slots[slot].append("down" if value >= 0 else "up")
    assert slots == {0: ["down", 100, 200, "up"], 1: ["down", 1279, 799, 640, 400, "up"]}
    assert unexpected(guest, FULL_SPEED) == []


def test_a_pen_draws_and_erases(guest, serve, fifo):
    server = serve(f"virtual:tablet?pipe={fifo}&delay=0&speed=high")
    guest.mark()
    lines = (
        "hover 1000 2000\ndraw 1000 2000 1\ntilt 30 -10\npress barrel\nrelease barrel\naway\n"
        "erase 29699 20999 0.5\naway\nhover 5 5\npress second\nrelease second\n"
    )
    events = told(guest, server, fifo, BTN_STYLUS2, lines)
    pressed = [event[1:] for event in events if event[0] == EV_KEY]
    assert pressed == [
        *((BTN_TOOL_PEN, 1), (BTN_TOUCH, 1), (BTN_STYLUS, 1), (BTN_STYLUS, 0)),
        *((BTN_TOUCH, 0), (BTN_TOOL_PEN, 0)),
        *((BTN_TOOL_RUBBER, 1), (BTN_TOUCH, 1), (BTN_TOUCH, 0), (BTN_TOOL_RUBBER, 0)),
        *((BTN_TOOL_PEN, 1), (BTN_STYLUS2, 1), (BTN_STYLUS2, 0)),
    ]
    moved = [event[1:] for event in events if event[0] == EV_ABS]
    assert moved[:5] == [(ABS_X, 1000), (ABS_Y, 2000), (ABS_PRESSURE, 4095), (ABS_TILT_X, 30), (ABS_TILT_Y, -10)]
    assert {(ABS_X, 29699), (ABS_Y, 20999), (ABS_PRESSURE, 2048)} <= set(moved[5:])
    assert unexpected(guest) == []


# -- more than one, and ends ------------------------------------------------------------------------------------------


def test_keyboard_and_mouse_at_once(guest, serve, tmp_path):
    for name in ("keys", "ways"):
        os.mkfifo(tmp_path / name)
    server = serve(
        f"virtual:keyboard?pipe={tmp_path}/keys&delay=0",
        f"virtual:mouse?pipe={tmp_path}/ways&delay=0",
        "virtual:keyboard?layout=de",
    )
    text = "typed while the mouse moves 0123456789 " * 4 + "\n"
    guest.mark()
    with (
        importing(guest, server.port, "1-1") as keyboard,
        importing(guest, server.port, "1-2") as mouse,
        importing(guest, server.port, "1-3"),
    ):
        reader = Reader(guest, f"{keyboard.device} {mouse.device} until={KEY_ENTER}")
        (tmp_path / "ways").write_text("move 1 1\n" * 100)
        (tmp_path / "keys").write_text(text)
        events = reader.events()
    assert evdev.text("us", keys(events, keyboard.device)) == text
    moved = [value for name, kind, code, value in events if (name, kind, code) == (mouse.device, EV_REL, REL_X)]
    assert moved == [1] * 100
    assert unexpected(guest) == []


def test_detached_while_it_types(guest, serve, fifo):
    server = serve(f"virtual:keyboard?pipe={fifo}&delay=0", "-v")
    sending = r"sendmsg failed!, ret=-(32|104)"  # vhci_hcd had something to send when its socket was shut down
    text = "never to be seen in full " * 16
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        reader = Reader(guest, attached.device)
        fifo.write_text(text)
        wait_for(lambda: reader.step.output().count("\n") > 120)
    events = reader.events()
    assert reader.step.output().splitlines()[-1].endswith("gone")
    seen = evdev.text("us", keys(events))
    assert text.startswith(seen)
    assert 10 < len(seen) < len(text)
    wait_for(lambda: server.log().count("released") == 1)
    with importing(guest, server.port, "1-1") as attached:  # and the rest is typed to the next host
        reader = Reader(guest, f"{attached.device} until={KEY_ENTER}")
        fifo.write_text("\n")
        assert evdev.text("us", keys(reader.events())).endswith("in full \n")
    assert unexpected(guest, sending) == []
