"""Configurations of common devices, put together from what their kind says of itself, with the meaning beside."""

from __future__ import annotations

from typing import Final


def _bytes(text: str) -> bytes:
    """The hexadecimal bytes of each line, up to its comment."""
    return bytes.fromhex(" ".join(line.partition("#")[0] for line in text.splitlines()))


KEYBOARD_DEVICE: Final = _bytes(
    """
    12 01 10 01 00 00 00 08  # USB 1.1, class at the interfaces, 8-byte packets on endpoint 0
    6d 04 1c c3 10 64        # 046d:c31c release 64.10
    01 02 00 01              # manufacturer, product, no serial, one configuration
    """
)

KEYBOARD: Final = _bytes(
    """
    09 02 3b 00 02 01 03 a0 2d  # two interfaces, remote wakeup, 90 mA
    09 04 00 00 01 03 01 01 02  # HID, boot keyboard
    09 21 10 01 00 01 22 41 00  # HID 1.10, report descriptor of 65 bytes
    07 05 81 03 08 00 0a        # interrupt in, 8 bytes, 10 ms
    09 04 01 00 01 03 00 00 02  # HID, the media keys
    09 21 10 01 00 01 22 9f 00
    07 05 82 03 04 00 ff
    """
)

# High speed. A camera and its microphone, each announced by an association.
WEBCAM: Final = _bytes(
    """
    09 02 d9 00 04 01 00 80 fa           # four interfaces, 500 mA
    08 0b 00 02 0e 03 00 05              # interfaces 0 and 1: video collection
    09 04 00 00 01 0e 01 00 05           # video control
    0d 24 01 00 01 33 00 80 c3 c9 01 01 01                 # header, UVC 1.00, one streaming interface
    12 24 02 01 01 02 00 00 00 00 00 00 00 00 03 0e 00 00  # camera terminal
    09 24 03 02 01 01 00 01 00                             # output terminal
    0b 24 05 03 01 00 00 02 7f 17 00                       # processing unit
    07 05 83 03 10 00 06                 # interrupt in, 16 bytes, 4 ms
    05 25 03 10 00                       # its class-specific part
    09 04 01 00 00 0e 02 00 00           # video streaming, no bandwidth
    0e 24 01 01 19 00 81 00 02 00 00 00 01 00              # input header
    0b 24 06 01 01 00 01 00 00 00 00                       # format MJPEG
    09 04 01 01 01 0e 02 00 00           # the same with bandwidth
    07 05 81 05 00 14 01                 # isochronous in, three packets of 1024 in each microframe
    08 0b 02 02 01 02 00 06              # interfaces 2 and 3: audio
    09 04 02 00 00 01 01 00 06           # audio control
    09 24 01 00 01 09 00 01 03           # header
    09 04 03 00 00 01 02 00 00           # audio streaming, no bandwidth
    09 04 03 01 01 01 02 00 00           # the same with bandwidth
    07 24 01 03 01 01 00                 # general
    0b 24 02 01 01 02 10 01 80 3e 00     # format: mono, 16 bit, 16 kHz
    09 05 86 05 24 00 04 00 00           # isochronous in, 36 bytes, 1 ms, the 9-byte form
    07 25 01 01 00 00 00
    """
)

# SuperSpeed. Bulk-only and, as alternate setting 1, with streams (UAS).
STORAGE: Final = _bytes(
    """
    09 02 79 00 01 01 00 80 70  # one interface, 896 mA
    09 04 00 00 02 08 06 50 00  # bulk-only
    07 05 81 02 00 04 00
    06 30 0f 00 00 00           # bursts of 16
    07 05 02 02 00 04 00
    06 30 0f 00 00 00
    09 04 00 01 04 08 06 62 00  # UAS
    07 05 81 02 00 04 00
    06 30 0f 05 00 00           # bursts of 16, 32 streams
    04 24 03 00                 # pipe usage: data in
    07 05 02 02 00 04 00
    06 30 0f 05 00 00
    04 24 04 00                 # data out
    07 05 83 02 00 04 00
    06 30 00 05 00 00
    04 24 02 00                 # status
    07 05 04 02 00 04 00
    06 30 00 00 00 00
    04 24 01 00                 # command
    """
)

STORAGE_BOS: Final = _bytes(
    """
    05 0f 3e 00 04
    07 10 02 06 00 00 00           # USB 2.0 extension: link power management, BESL
    0a 10 03 00 0e 00 01 0a ff 07  # SuperSpeed: full, high and Gen 1, works from full speed on, U1 10 us, U2 2047 us
    14 10 04 00 00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff  # container id
    14 10 0a 00 01 00 00 00 00 11 00 00 30 40 0a 00 b0 40 0a 00  # SuperSpeedPlus: two sublinks of 10 Gbit/s
    """
)

# Full speed. Asynchronous playback with a feedback endpoint.
AUDIO: Final = _bytes(
    """
    09 02 6d 00 02 01 00 80 32
    09 04 00 00 00 01 01 00 00  # audio control
    09 24 01 00 01 1e 00 01 01  # header
    0c 24 02 01 01 01 00 02 03 00 00 00  # input terminal: USB streaming
    09 24 03 02 01 03 00 01 00  # output terminal: speaker
    09 04 01 00 00 01 02 00 00  # audio streaming, no bandwidth
    09 04 01 01 02 01 02 00 00  # the same with bandwidth
    07 24 01 01 01 01 00        # general
    0b 24 02 01 02 03 18 01 80 bb 00  # format: stereo, 24 bit, 48 kHz
    09 05 01 05 26 01 01 00 82  # isochronous out, asynchronous, 294 bytes, feedback at 0x82
    07 25 01 00 00 00 00
    09 05 82 11 03 00 01 04 00  # isochronous in, feedback, every 2**4 ms
    """
)

CONFIGURATIONS: Final = {"keyboard": KEYBOARD, "webcam": WEBCAM, "storage": STORAGE, "audio": AUDIO}
