"""Writes the parts of the documentation that the program knows best, and those that are measured.

    make docs        or: python docs/generate.py

The tests compare what is here with what this would write.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import click

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

import usbferry
from docs import jitter, matrix, specification
from docs.accepted import ACCEPTED
from usbferry import aio, device, registry, selector, testing
from usbferry.backends import virtual
from usbferry.cli import VERBS, info, main
from usbferry.devices import broken, composite, fault, gamepad, keyboard, mouse, printer, serial, tablet, touch
from usbferry.devices import virtual as base
from usbferry.devices.hid import keys, layouts
from usbferry.local import sync
from usbferry.server import catalog, listen
from usbferry.usb import setup, transfer, tree, types
from usbferry.usb.info import DeviceInfo

FOLDER: Final = Path(__file__).parent
_NOTE: Final = "<!-- Written by docs/generate.py: change what it reads, then `make docs`. -->"


# -- commands ----------------------------------------------------------------------------------------------------------

# What a reader can copy, for each verb, and what one of them shows. The tests run them.
_EXAMPLES: Final = {
    "attach": """
        $ sudo usbferry attach usbip://HOST/1-1
        $ sudo usbferry attach --relay -v usbip://HOST/1-1
        $ sudo usbferry attach 'virtual:disk?size=64M'     # without any network; until Ctrl-C
        """,
    "demo": """
        $ usbferry demo
        $ usbferry demo --stay --listen 0.0.0.0:3240      # keep serving, for a kernel to attach
        """,
    "detach": """
        $ sudo usbferry detach 0
        $ sudo usbferry detach 046d:c52b
        $ sudo usbferry detach --all
        """,
    "info": """
        $ usbferry info virtual:mouse
        $ usbferry info usbip://HOST/1-1
        $ usbferry info --json usbip://HOST/1-1
        """,
    "keep": """
        $ sudo usbferry keep 'usbip://HOST/046d:*'
        $ sudo usbferry keep --config /etc/usbferry/keep.toml
        $ usbferry keep --status
        """,
    "list": """
        $ usbferry list
        $ usbferry list HOST
        $ usbferry list --json HOST ANOTHER_HOST:3241
        $ usbferry list --follow ferry://HOST             # what comes, goes and changes hands
        """,
    "new": """
        $ usbferry new thermometer
        $ usbferry new my-mouse --like usb:1-2             # what that one says of itself, to start from
        """,
    "ports": """
        $ usbferry ports
        $ usbferry ports --json
        """,
    "run": """
        $ usbferry run --device usbip://HOST -- pyfu-usb -l
        $ usbferry run --device usbip://HOST/1-2 --device virtual:zero -- python prog.py
        """,
    "serve": """
        $ usbferry serve virtual:zero
        $ usbferry serve 'virtual:disk?image=stick.img&size=64M' virtual:mouse
        $ usbferry serve -v --listen 0.0.0.0:3240 'virtual:keyboard?text=hello'
        $ usbferry serve usb:1-2 --listen :3240           # the USB device in that port
        $ usbferry serve --match '046d:*' --match class=audio
        $ usbferry serve usbip://HOST/1-1 --listen :3241   # pass on another machine's device
        """,
    "udev-rule": """
        $ usbferry udev-rule 046d:c52b
        $ usbferry udev-rule --group lab 'serial=AB*' class=hid
        """,
    "wireshark": """
        $ usbferry wireshark --install
        $ usbferry wireshark                              # prints the script
        """,
}


def commands() -> str:
    """Every verb, as click knows it."""
    parts = [
        "# Commands",
        _NOTE,
        "`usbferry COMMAND --help` says the same on a terminal. Quote an address that has `?` or `&` in it, for the "
        "shell gives these a meaning of its own.",
        _table(("Command", ""), [(f"[`{verb}`](#usbferry-{verb})", line) for verb, line in VERBS.items()]),
        "| Exit status | |\n| --- | --- |\n"
        "| 0 | done; for `serve`, `keep`, `list --follow` and `demo --stay`, ended by Ctrl-C or SIGTERM |\n"
        "| 1 | `list` could not read one of the addresses; `attach` lost a device that went through it |\n"
        "| 2 | it could not be done: standard error says why, see [errors](errors.md) |\n"
        "| 78 | `keep` cannot use its file of rules |\n"
        "| 130, 143 | Ctrl-C or SIGTERM ended it before it was done; `serve`, `keep` and `attach`, before they served, "
        "kept or attached |\n"
        "| any other | `run` has the exit status of its program |",
    ]
    context = click.Context(main, info_name="usbferry", **main.context_settings)
    for verb in main.list_commands(context):
        command = main.get_command(context, verb)
        assert command is not None
        parts += _command(verb, command, context)
    return _document(parts)


def _command(verb: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    command._help_option = None  # click keeps that of the first context, which may have been a test's
    context = click.Context(command, info_name=verb, parent=parent)
    yield f"## usbferry {verb}"
    yield f"```text\n{' '.join((context.command_path, *command.collect_usage_pieces(context)))}\n```"
    yield from _help(command.help or "")
    rows = [
        (f"`{' '.join((', '.join(one.opts), one.metavar or '')).strip()}`", _option_help(one))
        for one in command.get_params(context)
        if isinstance(one, click.Option)
    ]
    yield _table(("Option", ""), rows)
    yield "```console\n" + textwrap.dedent(_EXAMPLES[verb]).strip() + "\n```"
    if verb == "info":
        report = info.tree(virtual.make("mouse", {}).info)
        yield "The first of them shows:"
        yield "```text\n" + "\n".join(info._lines(report)) + "\n```"


def _help(text: str) -> Iterator[str]:
    r"""Paragraphs as Markdown. In those that click may not wrap, after \b, what is indented is an example."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.splitlines()
        if lines[0] != "\b":
            yield " ".join(lines)
            continue
        prose: list[str] = []
        example: list[str] = []
        for line in lines[1:]:
            if line.startswith("  "):
                example.append("  " + line)
                continue
            if example:
                yield from (" ".join(prose), "\n".join(example))
                prose, example = [], []
            prose.append(line)
        yield " ".join(prose)
        yield from ["\n".join(example)] if example else []


def _option_help(option: click.Option) -> str:
    text = option.help or ""
    return f"{text} Default: `{option.default}`." if option.show_default and option.default is not None else text


# -- devices -----------------------------------------------------------------------------------------------------------

_EVERY: Final = {
    "speed": "how fast the device says it is; nothing here is slowed down to it",
    "serial": "its serial number string",
    "fault": "what it does wrong, see [faults](#faults); may be given several times",
    "delay": "seconds from the moment a host begins to read the device until it begins",
}
_LINES: Final = "a FIFO, a file, or `-` for standard input, with lines as below"
_SOUND: Final = {
    "rates": "the rates that the host may choose, in Hz; it begins with the first",
    "channels": "1 is mono, 2 stereo, up to 8",
    "bits": "of a sample: 16, 24 or 32",
    "buffer": "seconds of sound that wait, at most, for the slower side of a pipe or a connection",
    "version": "of USB Audio, 1 or 2",
    "speed": "how fast the device says it is; without it `full` for version 1, and `high` for version 2",
}
_SOURCE: Final = "what it hears, see [`microphone`](#virtualmicrophone)"
_MEANINGS: Final = {
    "broken": {"mistake": "which mistake it makes, see below"},
    "camera": {
        "source": "what it sees, see below",
        "formats": "`mjpeg` and `yuy2`, the usual one first; without it all that the pictures can be",
        "sizes": "such as `640x480,1280x720`, the usual one first; without it that of the picture",
        "rates": "pictures per second, the usual first",
        "bulk": "pictures come by a bulk endpoint rather than an isochronous one",
        "version": "of USB Video, 1.1 or 1.5",
    },
    "composite": {
        "parts": "what it is made of, with `+` between the names: `keyboard+serial+disk`",
        "id": "its vendor and product id, such as `0403:6001`",
        "product": "its product name; without one, those of its parts",
        "speed": "of the whole, and of each part that can choose; without it `high`, or what a part can do alone",
    },
    "dfu": {
        "file": "the file that holds its firmware; made by the first download",
        "size": "bytes of its flash",
        "dfuse": "it speaks DfuSe, STMicroelectronics' dialect with addresses, rather than DFU 1.1",
        "address": "with `dfuse`: where its flash begins",
        "page": "bytes that are erased at once",
        "transfer": "bytes of a block at most",
        "bootloader": "it begins as its bootloader",
        "will_detach": "it changes its life by itself; `no` waits for its host to reset it",
        "tolerant": "after a download it goes on as the bootloader",
        "busy": "seconds that each block takes it",
    },
    "disk": {
        "image": "the file, or block device, that holds the content; made if it is not there and `size` is given",
        "size": "bytes; needed for an image that is to be made, and for a disk in memory",
        "readonly": "the disk is write-protected, and the image is never opened for writing",
        "files": "a folder, whose files are on the disk, in a FAT file system",
        "block": "bytes of a block, 512 or 4096",
        "removable": "it says that its medium can be removed, as USB sticks and card readers do",
        "serial": "its serial number; without one it is made of the image's path, and stays the same",
        "product": "its product name",
    },
    "ethernet": {
        "to": "where its cable goes, see below; nothing leaves it unplugged",
        "mode": "how frames are put into transfers: `ecm`, or `ncm`, which takes several at once",
        "mac": "the address that the host takes, as `02:00:00:12:34:56`; without one it is made of the other options",
    },
    "ftdi": {
        "to": "where its bytes go and come from, as with [`serial`](#virtualserial)",
        "link": "with `to=pty`: a symbolic link to make, so that programs find the terminal",
        "input": "with `to=file:...`: a file whose content the host reads",
        "buffer": "bytes held in each direction before the sender has to wait",
        "serial": "its serial number, by which pyftdi's URLs name it",
    },
    "gamepad": {"pipe": _LINES},
    "headset": {"source": _SOURCE, "to": "where the host's sound goes, see [`speaker`](#virtualspeaker)", **_SOUND},
    "keyboard": {
        "layout": f"the layout that the host is set to: {', '.join(layouts.LAYOUTS)}",
        "text": "typed to each host that attaches the keyboard",
        "pipe": "a FIFO, a file, or `-` for standard input: what comes is typed",
        "rate": "keys in a second at most; 0 is as fast as the host reads",
        "media": "it has media keys too: " + ", ".join(f"`{name}`" for name in keys.MEDIA_KEYS),
        "taps": "keys that are pressed and released after the text, by their names: `enter,f5,mute`",
        "interrupt_out": "the lights come over an endpoint of their own, rather than by control requests",
    },
    "many-configurations": {"count": "how many configurations, up to 15"},
    "many-endpoints": {},
    "midi": {
        "to": "where what the host plays goes, and what it hears comes from, as with [`serial`](#virtualserial)",
        "link": "with `to=pty`: a symbolic link to make, so that programs find the terminal",
        "input": "with `to=file:...`: a file of raw MIDI bytes that the host hears",
        "buffer": "bytes held in each direction before the sender has to wait",
        "product": "its product name, by which programs list it",
    },
    "mouse": {"pipe": _LINES},
    "microphone": {"source": "what it hears, see below", **_SOUND},
    "mtp": {
        "folder": "what it shows; without it an empty one of its own, which hosts write to and which goes with it",
        "write": "hosts may send, rename and delete; otherwise the folder is only read",
        "product": "its product name",
    },
    "printer": {
        "to": "where prints go, see below; nothing is memory",
        "language": "what it understands: the CMD of its device id, by which systems choose a driver",
        "id": "its whole device id, in the words of IEEE 1284: `MFG:...;MDL:...;CMD:...;`",
        "bidirectional": "it also answers",
        "product": "its product name",
    },
    "security-key": {
        "wait": "a person has to touch it, by a line or from Python; without it that is taken for granted",
        "verify": "it knows the person who touches it, as by a fingerprint: user verification",
        "pin": "it knows the person by this PIN, which hosts may change; without it there is none",
        "pipe": _LINES + ", and it waits for them",
    },
    "serial": {
        "to": "where its bytes go and come from, see below",
        "link": "with `to=pty`: a symbolic link to make, so that programs find the terminal",
        "input": "with `to=file:...`: a file whose content the host reads",
        "buffer": "bytes held in each direction before the sender has to wait",
        "association": "whether a descriptor joins the two interfaces; `no` leaves it to the device class",
    },
    "smartcard": {
        "files": "a folder whose files are the card's, see below; without it there is a small card",
        "pin": "what a host has to verify before it writes; 4 to 16 characters",
        "inserted": "the card is in the reader from the start",
        "extended": "it takes commands and answers of up to 64 KiB; `no` is a reader for short ones, of 256 bytes",
        "busy": "seconds that the card takes for each command; the host is asked for time meanwhile",
        "pipe": _LINES,
    },
    "tablet": {
        "pipe": _LINES,
        "width": "its coordinates to the right, a hundred to the millimetre",
        "height": "the same downwards",
    },
    "touch": {
        "pipe": _LINES,
        "width": "pixels to the right",
        "height": "pixels downwards",
        "fingers": "how many it tells apart, 10 at most",
    },
    "speaker": {"to": "where the sound goes, see below", **_SOUND},
    "usbtmc": {
        "model": "its product name, and part of what `*IDN?` answers",
        "serial": "its serial number, part of that too",
    },
    "zero": {"pattern": "what it sends: 0 for zeros, 1 for usbtest's counting bytes, which it then also checks"},
}
_MEANINGS["uas"] = _MEANINGS["disk"]
_NEEDED: Final = {
    "composite": {"parts": "dfu"},
    "disk": {"size": "1M"},
    "uas": {"size": "1M"},
}  # for a device to be made, whatever else is asked of it

_NOTES: Final = {
    "broken": f"""
        It works, but for what it says of itself, by which hosts and their libraries can be tested: what is written to
        0x01 is read from 0x81. Linux mends most of it, and says so in the kernel's log.

        | `mistake=` | What is wrong |
        | --- | --- |
        {(chr(10) + 8 * " ").join(f"| `{name}` | {one.about} |" for name, one in broken.MISTAKES.items())}

        ```console
        $ usbferry serve 'virtual:broken?mistake=endpoint-count'
        ```
        """,
    "camera": """
        | `source=` | The host sees |
        | --- | --- |
        | `card` | a test card with a number that counts its pictures, for people and for programs |
        | `file:PATH` | a picture |
        | `directory:PATH` | all pictures of a folder, one after the other |
        | `mjpeg:PATH` | JPEGs one after the other: a file, again and again, or a FIFO that programs write to |
        | `tcp://HOST:PORT` | the same from a server |
        | `listen://HOST:PORT` | the same from a client |

        JPEGs are sent as they are. With Pillow (`pip install 'usbferry[pictures]'`) files may be of any kind, and are
        made to fit any size and format. Sizes and rates that the bus has no room for at its speed are not offered. In
        a live stream the newest picture counts; the sizes there have to be said. The test card has the controls of a
        real camera's picture, brightness, contrast, hue and saturation, and of its lens, exposure, focus, zoom, pan
        and tilt, and they change it.

        ```console
        $ usbferry serve virtual:camera
        $ usbferry serve 'virtual:camera?source=mjpeg:live.fifo&sizes=640x480'
        $ ffmpeg -re -i film.mkv -vf scale=640:480 -c:v mjpeg -f mjpeg live.fifo
        ```
        """,
    "composite": """
        Any of these devices in one, each as a function that a driver of its own takes. Options of a part are
        `PART.OPTION`; the second of a kind has a 2 behind its name: `parts=serial+serial&serial2.to=pty`. Faults are
        those of the whole, with the endpoints that `usbferry info` shows. A part that leaves the bus, as `dfu` does
        between its two lives, takes the others with it. Drivers that go by ids rather than by classes, as that of
        `ftdi`, want the `id` of what they know, and tell the whole device what is for their part: one such part alone.
        In Python the parts are devices: `Composite([keyboard, Serial(to="pty")])`, from `usbferry.devices.composite`.

        ```console
        $ usbferry serve 'virtual:composite?parts=keyboard+serial+disk&keyboard.text=hello&disk.size=64M'
        $ usbferry info 'virtual:composite?parts=microphone+camera&speed=super&product=Webcam'
        ```
        """,
    "dfu": """
        It has two lives. The runtime is 1209:0005, the bootloader 1209:0003, each with descriptors of its own. A host's
        DFU_DETACH leads from one to the other, and the end of a download back. Each time it leaves the bus, and comes
        back a moment later. Interface strings are the flash's layout, which tools show. A bootloader that is idle stays
        one when it is reset, as those in read-only memory do.

        ```console
        $ usbferry serve 'virtual:dfu?file=firmware.bin'
        $ usbferry serve 'virtual:dfu?file=firmware.bin&dfuse&bootloader&size=128K&page=2K'
        ```
        """,
    "disk": """
        A disk has an image, or a folder, or neither and is in memory. What a host writes goes to the image, and a host
        that asks for it (`sync`) waits until it is on stable storage. What it writes to a folder's disk stays in memory
        and is forgotten when the server ends: the folder is only read. An image is locked while a host uses it.
        There is [a tour](tours/a-disk.md).

        ```console
        $ usbferry serve 'virtual:disk?image=stick.img&size=64M'
        $ usbferry serve 'virtual:disk?files=FOLDER&readonly=1'
        $ usbferry serve 'virtual:disk?size=1G&speed=super'
        ```
        """,
    "ethernet": """
        | `to=` | Its cable goes to |
        | --- | --- |
        | nothing | nowhere: the host is told that it is unplugged |
        | `tap:NAME` | a network interface of this Linux system, which can be in a bridge |
        | `listen://HOST:PORT` | whoever connects: another such adapter with `to=tcp://`, or QEMU's `-netdev stream` |
        | `tcp://HOST:PORT` | such a listener |
        | `unix:PATH` | a program at a Unix socket: `passt --socket PATH` gives a network without root |
        | `echo` | itself |

        A TAP interface is made by root, or for you by root, once: `ip tuntap add dev ferry0 mode tap user $USER`. Over
        sockets each frame has its length before it, in four bytes, as QEMU and passt have it.

        ```console
        $ usbferry serve 'virtual:ethernet?to=tap:ferry0'
        $ usbferry serve 'virtual:ethernet?mode=ncm&to=listen://127.0.0.1:9000'
        ```
        """,
    "ftdi": """
        Linux makes /dev/ttyUSB0 of it; pyftdi finds it as `ftdi://ftdi:232r/1`, and has its pins too. The host's baud
        rate slows nothing down.

        ```console
        $ usbferry serve virtual:ftdi
        $ usbferry serve 'virtual:ftdi?to=listen://127.0.0.1:7000&serial=FT0001'
        ```
        """,
    "gamepad": f"""
        Each line that comes from the pipe is one of these; `#` begins a comment:

        | Line | |
        | --- | --- |
        | `tap a` | also `press` and `release`; buttons are {", ".join(gamepad.BUTTONS)} |
        | `stick left 0.5 -1` | half way to the right, all the way up; the sticks are left and right |
        | `trigger right 0.25` | a quarter of the way |
        | `dpad up-left` | a way of {", ".join(gamepad.WAYS)}; without one it is let go |

        Systems find its buttons and axes where Linux's gamepad specification has them. Its light is shown in the log.

        ```console
        $ usbferry serve 'virtual:gamepad?pipe=pad.fifo'
        ```
        """,
    "headset": """
        A microphone and a speaker in one device. Linux, macOS and Windows have drivers for both versions; Windows
        before 10 for version 1 alone.

        ```console
        $ usbferry serve 'virtual:headset?source=wav:question.wav&to=wav:answer.wav'
        ```
        """,
    "keyboard": """
        It types on the keys of its layout, and what a host makes of them is up to the host, so set both to the same.
        A character that the layout has no keys for is refused. `%20` is a space in an address, `%0A` the Enter key.
        There is [a tour](tours/serve-a-keyboard.md).

        ```console
        $ usbferry serve 'virtual:keyboard?text=hello%20world%0A'
        $ usbferry serve 'virtual:keyboard?layout=de&pipe=keys.fifo&rate=0'
        ```
        """,
    "microphone": """
        | `source=` | The host records |
        | --- | --- |
        | `tone:HZ` | a sine, at half of full scale |
        | `silence` | zeros |
        | `counter` | frame n is the number n, over all its channels: for tests, as what is lost shows |
        | `wav:PATH` | a WAV file, again and again; the file decides the rate, the channels and the bits |
        | `fifo:PATH` | samples that programs write to a FIFO, little endian, in the device's format |
        | `tcp://HOST:PORT` | samples from a server |
        | `listen://HOST:PORT` | samples from a client |

        The device's clock is this machine's, and 0 dB is the source as it is. Who writes to a pipe faster than the host
        records has to wait; who writes live, at a clock of its own, is followed: the rate differs by so little that
        nobody hears it. When nothing comes there is silence, until half of the buffer is full again.

        ```console
        $ usbferry serve 'virtual:microphone?source=wav:speech.wav'
        $ usbferry serve 'virtual:microphone?source=fifo:live.fifo&rates=48000'
        $ ffmpeg -re -i music.ogg -f s16le -ar 48000 -ac 2 - >live.fifo
        ```
        """,
    "many-configurations": """
        For tests of hosts: configuration N has N interfaces of one IN endpoint each, at which it says which
        configuration and which interface that is. Linux knows eight configurations and no more.

        ```console
        $ usbferry serve 'virtual:many-configurations?count=4'
        ```
        """,
    "many-endpoints": """
        For tests of hosts: all fifteen IN and all fifteen OUT endpoints that a device can have, in one interface. Each
        number is a loop: what is written to 0x07 is read from 0x87.

        ```console
        $ usbferry serve 'virtual:many-endpoints?speed=super'
        ```
        """,
    "midi": """
        Bytes of MIDI as they are on a cable: a note of a piano is `90 3c 40`. Programs that read and write raw MIDI go
        at the other end; with `echo` the host hears what it plays.

        ```console
        $ usbferry serve virtual:midi
        $ usbferry serve 'virtual:midi?to=listen://127.0.0.1:9001'
        ```
        """,
    "mouse": f"""
        Each line that comes from the pipe is one of these; `#` begins a comment:

        | Line | |
        | --- | --- |
        | `move 10 -5` | to the right and down; negative is to the left and up |
        | `click left` | also `press` and `release`; buttons are {", ".join(mouse.BUTTONS)} |
        | `wheel -1` | towards you, which scrolls down |
        | `hwheel 2` | to the right |

        ```console
        $ usbferry serve 'virtual:mouse?pipe=ways.fifo'
        ```
        """,
    "mtp": """
        Desktops, libmtp and Windows show it as they show a telephone. Files go through in pieces, of any size; nothing
        outside of the folder is reached, and links in it are left out. A file that a host sends has its name once it is
        there in whole, and never takes the place of another. Hosts are told of what changes in the folder meanwhile.

        ```console
        $ usbferry serve 'virtual:mtp?folder=FOLDER'
        $ usbferry serve 'virtual:mtp?folder=FOLDER&write'
        ```
        """,
    "printer": """
        | `to=` | Prints go to |
        | --- | --- |
        | nothing | memory: the last megabyte is `printer.paper` in Python |
        | `file:PATH` | a file that they are appended to |
        | `unix:PATH` | a program that listens at a Unix socket |
        | `fifo:PATH` | a FIFO, for a program that reads it |
        | `tcp://HOST:9100` | a network printer, or whatever listens there |
        | `listen://HOST:PORT` | a program that connects |

        While it says that it has no paper (`printer.status = OUT_OF_PAPER`) it takes nothing. One whose language is
        ESC/POS answers `DLE EOT n`, thermal printers' status requests, unless the far side is a program that could.

        ```console
        $ usbferry serve 'virtual:printer?to=file:receipts.bin'
        $ usbferry serve 'virtual:printer?to=tcp://192.0.2.7:9100&language=PCL'
        ```
        """,
    "security-key": """
        **For tests only.** It protects nothing: its keys are in this process's memory, where whoever runs it can get
        them, and they are lost when it ends. Its AAGUID, 75736266-6572-7279-2d74-6573742d6b65, is of no vendor, so that
        a site that checks attestations refuses it.

        It needs two packages: `pip install 'usbferry[fido]'`. Hosts find a FIDO2 key with resident credentials (ES256
        and EdDSA), hmac-secret and packed self-attestation, and a U2F key. Browsers and libfido2 use it through
        hidraw, for which Linux distributions have udev rules by vendor: for this one it takes
        `SUBSYSTEM=="hidraw", ATTRS{idVendor}=="1209", ATTRS{idProduct}=="0006", TAG+="uaccess"`, or root.

        | Line | |
        | --- | --- |
        | `touch` | a person touches it, now or when next asked to |
        | `refuse` | a person does not want to |

        ```console
        $ usbferry serve virtual:security-key
        $ usbferry serve 'virtual:security-key?verify&pipe=person.fifo'
        ```
        """,
    "serial": """
        | `to=` | The far side is |
        | --- | --- |
        | `echo` | itself: what the host writes comes back |
        | `pty` | a pseudo-terminal, which programs here open as a serial port; Unix alone |
        | `tcp://HOST:PORT` | a server, connected to again whenever the connection is lost |
        | `listen://HOST:PORT` | a client, one at a time |
        | `file:PATH` | a file that what the host writes is appended to |
        | `unix:PATH` | a program that listens at a Unix socket |
        | `fifo:PATH` | a FIFO that programs read what the host writes from |

        No byte is lost when one side is slow: the other has to wait. The host's baud rate slows nothing down.

        ```console
        $ usbferry serve virtual:serial
        $ usbferry serve 'virtual:serial?to=pty&link=port'
        $ usbferry serve 'virtual:serial?to=listen://127.0.0.1:7000'
        $ usbferry serve 'virtual:serial?to=file:out.log&input=in.txt'
        ```
        """,
    "smartcard": """
        pcscd and the drivers of Windows and macOS find a reader with a card that speaks ISO 7816-4: SELECT, READ
        BINARY, UPDATE BINARY, GET CHALLENGE, VERIFY and CHANGE REFERENCE DATA, with the PIN as reference 1. A folder's
        files are named by their ids, four hexadecimal digits, as `2F00`; folders are named so too, or by an
        application's AID, as `A000000001`. What a host writes stays in memory. In Python a card is any function from
        command to answer: `reader.insert(Answering(function))`, see `usbferry.devices.smartcards.card`.

        | Line | |
        | --- | --- |
        | `remove` | the card is taken out |
        | `insert` | it is put in |

        ```console
        $ usbferry serve virtual:smartcard
        $ usbferry serve 'virtual:smartcard?files=FOLDER&pin=9876&pipe=reader.fifo'
        ```
        """,
    "tablet": """
        Each line that comes from the pipe is one of these; `#` begins a comment:

        | Line | |
        | --- | --- |
        | `hover 1000 2000` | the pen is above a place; as a pointer it needs no more |
        | `draw 1000 2000 0.5` | it touches there, with half the pressure |
        | `erase 1000 2000` | its other end does |
        | `tilt 30 -10` | it leans, in degrees, to the right and away from the user |
        | `press barrel` | also `release`; the other button is `second` |
        | `away` | it is out of reach |

        ```console
        $ usbferry serve 'virtual:tablet?pipe=pen.fifo'
        ```
        """,
    "touch": """
        Each line that comes from the pipe is one of these; `#` begins a comment:

        | Line | |
        | --- | --- |
        | `tap 960 540` | on a pixel |
        | `swipe 100 900 100 100` | from one pixel to another, in twenty steps |
        | `down 0 100 100` | finger 0 touches a pixel, and stays |
        | `move 0 120 100` | it moves there |
        | `up 0` | it is lifted |

        ```console
        $ usbferry serve 'virtual:touch?width=1280&height=800&pipe=fingers.fifo'
        ```
        """,
    "speaker": """
        | `to=` | What the host plays goes to |
        | --- | --- |
        | `null` | nowhere |
        | `wav:PATH` | a WAV file, new with each claim; PATH-2.wav and so on when a host plays at another rate |
        | `counter` | a check that it is the microphone's counter: see the log, or `speaker.playing.sink` in Python |
        | `file:PATH` | a file that the bare samples are appended to, little endian |
        | `fifo:PATH` | a FIFO that programs read the samples from |
        | `tcp://HOST:PORT` | a server that gets the samples |
        | `listen://HOST:PORT` | a client that does |

        The host sends as much as the feedback endpoint asks for: what this machine's clock says, or a little less or
        more, for the buffer of a far side with a clock of its own to stay half full. What does not fit it is lost.

        ```console
        $ usbferry serve 'virtual:speaker?to=wav:played.wav'
        $ usbferry serve 'virtual:speaker?to=fifo:live.fifo&rates=48000'
        $ aplay -f S16_LE -r 48000 -c 2 live.fifo
        ```
        """,
    "uas": """
        The same disk for hosts that speak UAS, USB Attached SCSI: many commands at a time, and over bulk streams at
        SuperSpeed. Others use its alternate setting 0, which is Bulk-Only Transport. USB/IP carries no streams, and
        Linux does without UAS there; usbredir does carry them.

        ```console
        $ usbferry serve 'virtual:uas?image=stick.img&size=64M&speed=super' --on usbredir://127.0.0.1:4000
        ```
        """,
    "usbtmc": """
        A small oscilloscope that speaks SCPI: `*IDN?`, `CHANnel<n>:SCALe`, `TIMebase:SCALe`, `WAVeform:SOURce`,
        `:POINts`, `:PREamble?` and `:DATA?`, `MEASure:FREQuency?` and `:VPP?`, `RUN`, `STOP`, `SINGle`, `*TRG`,
        `SYSTem:ERRor?`, and the status registers of IEEE 488.2. Channel 1 has a sine of 1 kHz, channel 2 a square wave
        of 500 Hz. In Python, `device.instrument` may be any derived from `usbferry.devices.scpi.Instrument`.

        ```console
        $ usbferry serve 'virtual:usbtmc?serial=MY1234'
        ```
        """,
    "zero": """
        Alternate setting 0 has a bulk source (endpoint 0x81), a bulk sink (0x01), and a loopback: what is written to
        0x02 is read from 0x82. Alternate setting 1 also has an isochronous source (0x83) and sink (0x03), and an
        interrupt source (0x84) and sink (0x04). Linux' `usbtest` driver takes it for its own kind.

        ```console
        $ usbferry serve 'virtual:zero?speed=super'
        ```
        """,
}

_FAULTS: Final = {
    fault.Kind.STALL: "the endpoint halts until the host clears it; a control request is refused",
    fault.Kind.SHORT: "`size` bytes, or half of what there is; the rest is lost",
    fault.Kind.LENGTH: "exactly `size` bytes, cut or filled with zeros",
    fault.Kind.LATE: "nothing for `seconds`, and then the answer; `inf` is never",
    fault.Kind.BABBLE: "more data than the host asked for",
    fault.Kind.VANISH: "the device is unplugged; back after `away` seconds; as `become`, if given: with other ids "
    "(VENDOR:PRODUCT), or as another virtual device (its address, as the last word, with `%26` for each `&` in it)",
}
_WORDS: Final = {
    "after": "so many other transfers of the endpoint go well before it happens",
    "times": "how often it happens, 1 if not given; 0 is for ever",
    "wait": "seconds of a host's use before it can happen",
    "request": "of endpoint 0: only this bRequest",
}


def devices() -> str:
    """Every row of DEVICES with its options, the speeds it can be made at, and the faults it may be asked for."""
    about = [virtual.about(name) for name in registry.DEVICES]
    parts = [
        "# Virtual devices",
        _NOTE,
        "A virtual device exists in the process that serves it. Its address is `virtual:NAME`, followed by options: "
        "`virtual:NAME?option=value&option=value`. `usbferry list` has them too. "
        "[Write a device](write-a-device.md) of your own, and it is `virtual:FILE.py`.",
        "Behind each is who took it for the real thing: a driver or program that we did not write, and the test in "
        "which its data goes both ways, where there are both, and is compared. What they do by each protocol is "
        "[another table](matrix.md).",
        _table(
            ("Address", "What it is", "Speeds", "Accepted by"),
            [
                (
                    f"[`{one['address']}`](#virtual{one['name']})",
                    _cell(one["about"]),
                    _at(one["name"]),
                    _by(one["name"]),
                )
                for one in about
            ],
        ),
        "In an address `%20` is a space, `%26` is `&`, and any byte can be written like that. Values are:",
        _table(
            ("Type", ""),
            [
                ("str", "text"),
                ("int", "a number: `512`, `0x200`, `64M`; K, M, G and T are powers of 1024"),
                ("float", "a number such as `2` or `0.5`"),
                ("bool", "`yes` or `no`; the option alone means yes"),
                ("path", "a file's name; `~` is your home folder"),
                ("speed", "`low`, `full`, `high`, `super` or `super+`, as far as the device can"),
                ("fault", "what goes wrong, see [faults](#faults)"),
            ],
        ),
    ]
    for one in about:
        name = one["name"]
        made = virtual.make(name, _NEEDED.get(name, {})).info
        identity = f"{made.device.vendor_id:04x}:{made.device.product_id:04x}"
        parts += [
            f"## virtual:{name}",
            f"{_cell(one['about'])} Its vendor and product id are {identity}. "
            f"It {'can be' if len(list(_speeds(name))) else 'is'} at {_at(name)} speed.",
            _table(("Option", "Type", "Default", ""), list(_options(name, one["options"]))),
            inspect.cleandoc(_NOTES[name]),
        ]
    parts += _fault_parts()
    return _document(parts)


def _options(name: str, options: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    meanings = {**_EVERY, **_MEANINGS[name]}
    for option, said in options.items():
        default = said["default"]
        if isinstance(default, bool):
            default = "yes" if default else "no"
        if isinstance(default, float):
            default = f"{default:g}"
        if option not in meanings:
            raise SystemExit(f"{__file__}: _MEANINGS does not say what {option!r} of {name!r} is")
        yield f"`{option}`", said["type"], f"`{default}`" if default not in (None, "") else "", meanings[option]


def _speeds(name: str) -> Iterator[str]:
    """By trying."""
    for speed in ("low", "full", "high", "super", "super+"):
        try:
            virtual.make(name, {**_NEEDED.get(name, {}), "speed": speed})
        except ValueError:
            continue
        yield speed


def _at(name: str) -> str:
    """The speeds, or the only one."""
    made = virtual.make(name, _NEEDED.get(name, {})).info
    return ", ".join(_speeds(name)) or made.speed.name.lower()


def _by(name: str) -> str:
    """Who accepted it, and the tests."""
    if name not in ACCEPTED:
        raise SystemExit(f"{__file__}: docs/accepted.py does not say who accepted {name!r}")
    said = []
    for one in ACCEPTED[name]:
        file, _, test = one.test.partition("::")
        said.append(f"{one.by}: [`{test}`](../tests/{file})")
    return "; ".join(said)


def _fault_parts() -> Iterator[str]:
    yield "## Faults"
    yield (
        "Any virtual device misbehaves where and when it is told to, for people who test drivers. A fault is written "
        "as its kind, the endpoint, and words, with colons between them: `fault=stall:0x81:after=10`. Endpoint 0 "
        "stands for control requests. `vanish` may go without an endpoint. Isochronous endpoints have no faults but "
        "that. There is [a tour](tours/test-a-driver.md)."
    )
    own = {kind: [word for word in fault._WORDS[kind] if word not in _WORDS] for kind in fault.Kind}
    rows = [(f"`{kind.value}`", ", ".join(f"`{w}`" for w in own[kind]), _FAULTS[kind]) for kind in fault.Kind]
    yield _table(("Fault", "Its own words", "What happens"), rows)
    yield _table(("Word of all", ""), [(f"`{word}`", meaning) for word, meaning in _WORDS.items()])


# -- API ---------------------------------------------------------------------------------------------------------------

_DECLARED: Final = ("descriptor", "manufacturer", "product", "serial", "strings", "speed", "bos")
_DESCRIBE: Final = ("interfaces", "configurations", "bulk", "interrupt", "isochronous", "change_speed")
_HOOKS: Final = ("plugged", "unplugged", "opened", "closed", "was_reset", "settings_changed", "halt_cleared")
_FOR_HANDLERS: Final = ("clock", "kick", "kick_stream", "has_streams", "halt", "interface_number", "later", "vanish")
_PEOPLE: Final = {
    composite.Composite: "",
    keyboard.Keyboard: "type press release tap flushed",
    printer.Printer: "paper status",
    gamepad.Gamepad: "press release tap stick trigger dpad obey flushed",
    mouse.Mouse: "move wheel hwheel click press release obey flushed",
    serial.Serial: "signals",
    tablet.Tablet: "hover draw erase tilt press release away obey flushed",
    touch.Touch: "down move up tap swipe obey flushed",
}


def api() -> str:
    """The Python API, from signatures and docstrings."""
    parts = [
        "# Python API",
        _NOTE,
        "There are two ways in, with the same methods: `usbferry.open` for plain programs, and `usbferry.aio.open` for "
        "asyncio. [Use a device from Python](tours/use-a-device-from-python.md) shows them at work.",
        "## Opening a device",
        *_function(usbferry.open, "usbferry.open"),
        *_function(aio.open, "usbferry.aio.open"),
        *_function(usbferry.pyusb_backend, "usbferry.pyusb_backend"),
        "## Handle",
        inspect.cleandoc(aio.Handle.__doc__ or ""),
        "Close it, or use it in a `with` statement. Any thread may call, and several at the same time. In asyncio "
        "it is `async with`, and every method that waits is a coroutine: `await device.read(0x81, 64)`.",
        *_members(aio.Described, _public(aio.Described)),
        *_members(sync.Handle, [name for name in _public(sync.Handle) if name in vars(aio.Handle)]),
        "### With usbferry.aio.open alone",
        *_members(aio.Handle, [name for name in _public(aio.Handle) if name not in vars(sync.Handle)], 4),
        "## Selectors",
        "From `usbferry.selector`: [what every verb takes](selectors.md), for programs that look for devices "
        "themselves. `usbferry.registry.open_source` gives the source of an address, whose `list` has what it means.",
        *_classes(selector.Selector, module="usbferry.selector"),
        *_members(selector.Selector, ("parse", *_public(selector.Selector)), 4),
        *_function(selector.select, "usbferry.selector.select"),
        *_function(selector.choose, "usbferry.selector.choose"),
        "## Errors",
        "`open` raises a `DeviceError`, everything after it a `TransferError`. [Errors](errors.md) says what to do. "
        "ValueError is for what makes no sense wherever it is tried, such as reading from an OUT endpoint.",
        *_classes(device.DeviceError, device.NotFound, device.Busy, device.Unavailable, usbferry.Ambiguous),
        *_classes(aio.TransferError, aio.Stalled, aio.TimedOut, aio.DeviceGone),
        "## Values",
        "What calls give and take: from `usbferry.usb.types`, `usbferry.usb.transfer`, `usbferry.usb.info`, "
        "`usbferry.usb.tree` and `usbferry.usb.setup`.",
        *_enum(types.Status),
        *_enum(types.Speed),
        *_enum(types.TransferType),
        *_record(transfer.Transfer),
        *_record(transfer.Completion),
        *_record(transfer.IsoPacket),
        *_enum(transfer.Flags),
        *_record(DeviceInfo),
        *_record(tree.DeviceDescriptor),
        *_record(tree.Configuration),
        *_record(tree.Interface),
        *_record(tree.Endpoint),
        *_record(setup.Setup),
        "## Devices of your own",
        "A class derived from `VirtualDevice` is a device. From `usbferry.devices.virtual`:",
        inspect.cleandoc(base.__doc__ or ""),
        "### VirtualDevice",
        "A subclass declares:",
        *_declared(),
        "and may describe more, or something else, with these:",
        *_members(base.VirtualDevice, _DESCRIBE, 4),
        "It may be told of what happens by overriding these:",
        *_members(base.VirtualDevice, _HOOKS, 4),
        "Its handlers, and your program, use these:",
        *_members(base.VirtualDevice, _FOR_HANDLERS, 4),
        *[
            part
            for one in (base.endpoint, base.request, base.done, base.data)
            for part in _function(one, one.__name__, 3)
        ],
        "### Built-in devices",
        "They can be driven from Python too. What they are made with are [their options](devices.md).",
    ]
    for owner, names in _PEOPLE.items():
        parts.append(f"#### {owner.__module__}.{owner.__name__}")
        parts.append(inspect.cleandoc(sys.modules[owner.__module__].__doc__ or ""))
        parts += _members(owner, names.split(), 5)
    parts += [
        "### Serving it",
        "[Use a device from Python](tours/use-a-device-from-python.md#a-device-of-your-own) has a whole program.",
        *_classes(virtual.VirtualSource, module="usbferry.backends.virtual", level=4),
        *_classes(catalog.Catalog, module="usbferry.server.catalog", level=4),
        *_function(listen.serving, "usbferry.server.listen.serving", 4),
        *_members(listen.Server, ("offer", "listen", "drain"), 4),
        *_function(registry.load_exporter, "usbferry.registry.load_exporter", 4),
        *_function(registry.open_source, "usbferry.registry.open_source", 4),
        "## Tests",
        "[Test with virtual devices](testing.md) shows it at work. The fixture of pytest:",
        *_function(testing.PlugIn.__call__, "usb_device"),
        "From `usbferry.testing`:",
        *_function(testing.plugged, "plugged"),
        "### Plugged",
        inspect.cleandoc(testing.Plugged.__doc__ or ""),
        *_members(testing.Plugged, _public(testing.Plugged), 4),
    ]
    return _document(parts)


def _public(owner: type) -> list[str]:
    members = (FunctionType, property)
    return [n for n, value in vars(owner).items() if not n.startswith("_") and isinstance(value, members)]


def _function(one: Callable[..., Any], name: str, level: int = 3) -> Iterator[str]:
    yield f"{'#' * level} {name}"
    yield f"    {_signature(one, name.rpartition('.')[2])}"
    yield inspect.cleandoc(one.__doc__ or "")


def _members(owner: type, names: Iterable[str], level: int = 3) -> Iterator[str]:
    for name in names:
        value = next(vars(one)[name] for one in owner.__mro__ if name in vars(one))
        yield f"{'#' * level} {name}"
        if isinstance(value, property):
            assert value.fget is not None
            yield f"    {name}: {value.fget.__annotations__.get('return', '')}"
            text = value.fget.__doc__
        else:
            yield f"    {_signature(value, name)}"
            text = value.__doc__
        yield inspect.cleandoc(text or "")


def _signature(function: Any, name: str) -> str:
    """As it stands in the source, on as many lines as it takes to have each argument seen."""
    function = inspect.unwrap(function)
    words, seen_star, written = [], False, _literals(function)
    for one in inspect.signature(function).parameters.values():
        if one.name in ("self", "cls"):
            continue
        if one.kind is one.KEYWORD_ONLY and not seen_star:
            words.append("*")
            seen_star = True
        word = "*" * (one.kind is one.VAR_POSITIONAL) + "**" * (one.kind is one.VAR_KEYWORD) + one.name
        seen_star = seen_star or one.kind is one.VAR_POSITIONAL
        if one.annotation is not one.empty:
            word += f": {one.annotation}"
        if one.default is not one.empty:
            word += f" = {_default(one.default, written.get(one.name))}"
        words.append(word)
    returns = function.__annotations__.get("return", "None")
    start = f"{'async ' * inspect.iscoroutinefunction(function)}{name}("
    line = f"{start}{', '.join(words)}) -> {returns}"
    if len(line) <= 110:
        return line
    return start + "".join(f"\n        {word}," for word in words) + f"\n    ) -> {returns}"


def _classes(*owners: type, module: str = "usbferry", level: int = 3) -> Iterator[str]:
    for owner in owners:
        yield f"{'#' * level} {module}.{owner.__name__}"
        bases = ", ".join(b.__name__ for b in owner.__bases__ if b is not object)
        yield f"    class {owner.__name__}" + (f"({bases})" if bases else "")
        yield inspect.cleandoc(owner.__doc__ or "")


def _enum(owner: type[Enum]) -> Iterator[str]:
    yield f"### {owner.__name__}"
    yield inspect.cleandoc(owner.__doc__ or "")
    comments = _comments(owner)
    rows = [(f"`{one.name}`", str(one.value), comments.get(one.name or "", "")) for one in owner.__members__.values()]
    yield _table(("Name", "", "") if any(row[2] for row in rows) else ("Name", ""), rows)


def _record(owner: type) -> Iterator[str]:
    """A class whose value is its fields: those of its constructor, with what stands beside them, and its properties."""
    yield f"### {owner.__name__}"
    yield inspect.cleandoc(owner.__doc__ or "")
    comments, written = _comments(owner), _literals(owner)
    rows = []
    for one in inspect.signature(owner).parameters.values():
        default = "" if one.default is one.empty else f"`{_default(one.default, written.get(one.name))}`"
        rows.append((f"`{one.name}`", f"`{one.annotation}`".replace("|", "\\|"), default, comments.get(one.name, "")))
    yield _table(("Field", "Type", "Default", ""), rows)
    for name, value in vars(owner).items():
        if isinstance(value, property) and value.fget is not None and value.fget.__doc__:
            yield f"`{name}`: {inspect.cleandoc(value.fget.__doc__)}"


def _default(value: object, written: str | None = None) -> str:
    """A default value: as the source has it where that is a number or a text, and short."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if "factory" in repr(value):
        return "{}"
    return written or (repr(value) if len(repr(value)) < 40 else "...")


def _declared() -> Iterator[str]:
    comments = _comments(base.VirtualDevice)
    rows = []
    for name in _DECLARED:
        value = vars(base.VirtualDevice).get(name)
        default = f"`{_default(value)}`" if value is not None else ""
        kind = base.VirtualDevice.__annotations__[name].replace("|", "\\|")
        rows.append((f"`{name}`", f"`{kind}`", default, comments.get(name, "")))
    yield _table(("Attribute", "Type", "Default", ""), rows)


def _literals(one: Any) -> dict[str, str]:
    """The constants that a class gives its fields, or a function its arguments, as they are written: 0x0409."""
    source = textwrap.dedent(inspect.getsource(one))
    pairs: list[tuple[str, ast.expr | None]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            pairs.append((node.target.id, node.value))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            pairs += zip(
                [a.arg for a in given.args[len(given.args) - len(given.defaults) :]], given.defaults, strict=True
            )
            pairs += zip([a.arg for a in given.kwonlyargs], given.kw_defaults, strict=True)
    return {name: ast.get_source_segment(source, v) or "" for name, v in pairs if isinstance(v, ast.Constant)}


def _comments(owner: type) -> dict[str, str]:
    """What stands beside the fields of a class, in its body or its constructor's."""
    lines = textwrap.dedent(inspect.getsource(owner)).splitlines()
    found = {}
    for node in ast.walk(ast.parse("\n".join(lines))):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        rest = lines[(node.end_lineno or 1) - 1][node.end_col_offset :].strip()
        if rest.startswith("# ") and name:
            found[name] = _cell(rest[2:])
    return found


# -- Markdown ----------------------------------------------------------------------------------------------------------


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; a last column without any text is left out."""
    all_rows = list(rows)
    width = len(headings)
    lines = [headings, ("---",) * width, *all_rows]
    return "\n".join(f"| {' | '.join(row[:width])} |".replace("  ", " ") for row in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _document(parts: Iterable[str]) -> str:
    return "\n\n".join(part.rstrip() for part in parts if part.strip()) + "\n"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "commands.md": commands,
    "devices.md": devices,
    "matrix.md": lambda: matrix.page(_NOTE),
    "api.md": api,
    "protocols/ferry.md": specification.page,
    "jitter.md": jitter.page,
    "jitter.svg": jitter.plot,
}


def write() -> None:
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
