"""Pictures from a video device by mmap, as programs take them. In the guest, with the system's Python alone:

    v4l2.py DEVICE list                                   formats, sizes and rates
    v4l2.py DEVICE controls [NAME VALUE ...]              what there is of these, once each NAME is set
    v4l2.py DEVICE CODE WIDTH HEIGHT RATE COUNT KEEP FILE COUNT pictures, of each the first KEEP bytes in FILE (0: all)

Prints a line of JSON: what there is; or for each picture its bytes, sequence number, flags and time of arrival.
Source: include/uapi/linux/videodev2.h.
"""

import fcntl
import json
import mmap
import os
import select
import struct
import sys
import time

ENUM_FMT, S_FMT, S_PARM = 0xC0405602, 0xC0D05605, 0xC0CC5616
REQBUFS, QUERYBUF, QBUF, DQBUF = 0xC0145608, 0xC0585609, 0xC058560F, 0xC0585611
STREAMON, STREAMOFF = 0x40045612, 0x40045613
ENUM_SIZES, ENUM_INTERVALS = 0xC02C564A, 0xC034564B
QUERYCTRL, G_CTRL, S_CTRL = 0xC0445624, 0xC008561B, 0xC008561C
CONTROLS = {  # include/uapi/linux/v4l2-controls.h
    "brightness": 0x980900,
    "contrast": 0x980901,
    "saturation": 0x980902,
    "hue": 0x980903,
    "exposure_mode": 0x9A0901,
    "exposure": 0x9A0902,
    "pan": 0x9A0908,
    "tilt": 0x9A0909,
    "focus": 0x9A090A,
    "focus_auto": 0x9A090C,
    "zoom": 0x9A090D,
}
CAPTURE, MMAP = 1, 1
BUFFER = struct.Struct("<IIIII4x16s16sIIQIII4x")  # index, type, used, flags, field, time, code, sequence, memory, ...
BUFFERS = 32  # the most there can be: a program in an emulated machine may be late


def ask(fd: int, code: int, size: int, layout: str, *fields: int) -> bytearray:
    raw = bytearray(size)
    struct.pack_into(layout, raw, 0, *fields)
    fcntl.ioctl(fd, code, raw)
    return raw


def each(fd: int, code: int, size: int, *fields: int):
    """Answers by index, until there is no more."""
    index = 0
    while True:
        try:
            yield ask(fd, code, size, f"<{1 + len(fields)}I", index, *fields)
        except OSError:
            return
        index += 1


def listed(fd: int) -> dict:
    """Code -> size -> rates."""
    found = {}
    for one in each(fd, ENUM_FMT, 64, CAPTURE):
        code = struct.unpack_from("<I", one, 44)[0]
        sizes = found[bytes(one[44:48]).decode()] = {}
        for size in each(fd, ENUM_SIZES, 44, code):
            width, height = struct.unpack_from("<II", size, 12)
            intervals = each(fd, ENUM_INTERVALS, 52, code, width, height)
            sizes[f"{width}x{height}"] = [
                round(b / a, 2) for a, b in (struct.unpack_from("<II", i, 20) for i in intervals)
            ]
    return found


def controls(fd: int) -> dict:
    """Name -> least, most, default and current value."""
    found = {}
    for name, number in CONTROLS.items():
        try:
            least, most, _, usual = struct.unpack_from("<4i", ask(fd, QUERYCTRL, 68, "<I", number), 40)
        except OSError:
            continue
        found[name] = [least, most, usual, struct.unpack_from("<i", ask(fd, G_CTRL, 8, "<I", number), 4)[0]]
    return found


def buffer(fd: int, code: int, index: int = 0) -> tuple:
    raw = bytearray(BUFFER.pack(index, CAPTURE, 0, 0, 0, b"", b"", 0, MMAP, 0, 0, 0, 0))
    fcntl.ioctl(fd, code, raw)
    return BUFFER.unpack(raw)


def capture(fd: int, code: str, width: int, height: int, rate: int, count: int, keep: int, file: str) -> list:
    got = ask(fd, S_FMT, 208, "<IIIII", CAPTURE, 0, width, height, int.from_bytes(code.encode(), "little"))
    assert struct.unpack_from("<II", got, 8) == (width, height), struct.unpack_from("<II", got, 8)
    assert bytes(got[16:20]) == code.encode(), got[16:20]
    ask(fd, S_PARM, 204, "<IIIII", CAPTURE, 0, 0, 1, rate)
    ask(fd, REQBUFS, 20, "<III", BUFFERS, CAPTURE, MMAP)
    maps = []
    for index in range(BUFFERS):
        fields = buffer(fd, QUERYBUF, index)
        maps.append(mmap.mmap(fd, fields[10], offset=fields[9]))
        buffer(fd, QBUF, index)
    fcntl.ioctl(fd, STREAMON, struct.pack("<i", CAPTURE))
    pictures, kept = [], []
    while len(pictures) < count:
        if not select.select([fd], [], [], 30)[0]:
            break
        index, _, used, flags, _, _, _, sequence, *_ = buffer(fd, DQBUF)
        pictures.append((used, sequence, flags, time.monotonic()))
        kept.append(maps[index][: min(used, keep or used)])
        buffer(fd, QBUF, index)
    fcntl.ioctl(fd, STREAMOFF, struct.pack("<i", CAPTURE))
    with open(file, "wb") as out:
        out.writelines(kept)
    return pictures


def main() -> None:
    device, what, *rest = sys.argv[1:]
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # who is later than all buffers last loses pictures
    fd = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    if what == "list":
        said = json.dumps(listed(fd))
    elif what == "controls":
        for name, value in zip(rest[::2], rest[1::2], strict=True):
            ask(fd, S_CTRL, 8, "<Ii", CONTROLS[name], int(value))
        said = json.dumps(controls(fd))
    else:
        *numbers, file = rest
        said = json.dumps(capture(fd, what, *map(int, numbers), file))
    sys.stdout.write(f"{said}\n")


if __name__ == "__main__":
    main()
