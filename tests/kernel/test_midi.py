"""The kernel's snd-usbmidi-lib plays to our MIDI port and hears it: the same bytes at both ends."""

import re
import socket

import pytest

from tests.kernel.guest import Guest
from tests.kernel.steps import importing, unexpected

# Notes, a program, system exclusive messages of each length there is by threes, realtime between them.
PLAYED = bytes.fromhex(
    "903c40 803c00 c305 b2077f e50040 f0f7 f001f7 f00102f7 f0010203f7 f8 f0010203040506f7 f122 f20102 f6 fa fc"
)
HEARD = bytes.fromhex("913d41 f07e7f0601f7 fe 813d00 d206") * 20
NODE = """
    until set -- /sys/bus/usb/devices/{device}:1.0/sound/card*/midiC* && [ -e /dev/snd/${{1##*/}} ]; do sleep 0.05; done
    node=/dev/snd/${{1##*/}}
"""


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run("modprobe -a vhci-hcd snd-usb-audio").ok()
    return guest


@pytest.mark.parametrize("speed", ["full", "high"])
def test_both_ways_byte_for_byte(guest: Guest, serve, speed: str) -> None:
    server = serve(f"virtual:midi?to=listen://127.0.0.1:0&speed={speed}")
    port = int(re.search(r"listen://127\.0\.0\.1:(\d+): listening", server.log())[1])
    guest.mark()
    with importing(guest, server.port, "1-1") as attached, socket.create_connection(("127.0.0.1", port), 30) as peer:
        node = NODE.format(device=attached.device)
        script = f"{node} head -c {len(HEARD)} $node | od -An -v -tx1 -w{len(HEARD)}"
        hearing = guest.start(f"{script} & sleep 1; echo hearing; wait", 60)
        while "hearing" not in hearing.output():
            assert not hearing.is_over()
        peer.sendall(HEARD)
        written = "".join(f"\\x{byte:02x}" for byte in PLAYED)
        guest.run(f"{node} printf '{written}' >$node").ok()
        got = b""
        while len(got) < len(PLAYED):
            got += peer.recv(100)
        assert got == PLAYED
        assert bytes.fromhex(hearing.wait().ok().replace("hearing", "")) == HEARD
    assert unexpected(guest, "vhci_device speed not set") == []
