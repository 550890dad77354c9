"""Runs the kernel's USB conformance suite, the usbtest driver, on a device. In the guest, with any Python 3, as root:

    python3 -I -S usbtest.py [module options] [limits] CASE[,name=value...]...
    python3 -I -S usbtest.py alt=1 pattern=1 realworld=0 0 1 2,length=512 5,sglen=8,iterations=20 24,times=100

loads the driver anew with those options, waits until it has bound a device, and runs the cases in that order, all from
one process. Prints one JSON line about the device, then one for each run of a case, as it ends:

    {"device": "1-1", "speed": "480", "seconds": 0.31}
    {"case": 5, "errno": 0, "error": "", "seconds": 0.0432}

device=1-1 picks a device where there are several; wait=SECONDS (10) is how long one may take to be bound; reload=0
leaves the driver as it is loaded, so that several can run at the same time. Parameters not given are as testusb has
them: iterations=1000 length=1024 vary=1024 sglen=32. The exit code is 0 when all passed.

The interface to the driver: struct usbtest_param_64 and usbtest_ioctl() in Linux drivers/usb/misc/usbtest.c;
struct usbdevfs_ioctl in include/uapi/linux/usbdevice_fs.h. Few imports: under emulation each costs.
"""

import array
import errno
import fcntl
import os
import struct
import sys
import time

DRIVER = "/sys/bus/usb/drivers/usbtest"
PARAMETERS = {"iterations": 1000, "length": 1024, "vary": 1024, "sglen": 32}

REQUEST = struct.Struct("=5I4x2q")  # number, iterations, length, vary, sglen; out: seconds, microseconds
WRAPPER = struct.Struct("=iIQ")  # interface, request, address of its argument


def _iowr(kind: str, number: int, size: int) -> int:
    return 3 << 30 | size << 16 | ord(kind) << 8 | number


USBTEST_REQUEST = _iowr("U", 100, REQUEST.size)
USBDEVFS_IOCTL = _iowr("U", 18, WRAPPER.size)


def run_case(device: int, interface: int, case: int, parameters: dict[str, int]) -> tuple[int, float]:
    """One run: its errno, 0 for passed, and the seconds that it took."""
    values = [parameters[name] for name in PARAMETERS]
    argument = array.array("B", REQUEST.pack(case, *values, 0, 0))
    started = time.monotonic()
    try:
        fcntl.ioctl(device, USBDEVFS_IOCTL, WRAPPER.pack(interface, USBTEST_REQUEST, argument.buffer_info()[0]))
    except OSError as error:
        return error.errno or errno.EIO, time.monotonic() - started
    return 0, time.monotonic() - started


def load_driver(options: list[str]) -> None:
    """Some options can only be set while the driver loads."""
    if os.path.exists(DRIVER) and os.spawnlp(os.P_WAIT, "modprobe", "modprobe", "-r", "usbtest"):
        raise SystemExit("usbtest: the driver cannot be unloaded")
    if os.spawnlp(os.P_WAIT, "modprobe", "modprobe", "usbtest", *options):
        raise SystemExit("usbtest: the driver cannot be loaded")


def bound_interface(device: str, limit: float) -> str:
    """The sysfs name of the interface that the driver has bound, such as 1-1:1.0."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        names = sorted(name for name in os.listdir(DRIVER) if ":" in name and device in ("", name.split(":")[0]))
        if names:
            return names[0]
        time.sleep(0.02)
    raise SystemExit(f"usbtest: nothing bound within {limit:g} s")


def read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def show(**values: object) -> None:
    """A line of JSON; the module for it would take longer to import than most cases to run."""
    pairs = (
        f'"{name}": "{value}"' if isinstance(value, str) else f'"{name}": {value}' for name, value in values.items()
    )
    os.write(1, f"{{{', '.join(pairs)}}}\n".encode())


def main(words: list[str]) -> int:
    started = time.monotonic()
    device, limit, reload, options, cases = "", 10.0, True, [], []
    for word in words:
        name, _, value = word.partition("=")
        if word[0].isdigit():
            number, *settings = word.split(",")
            given = {name: int(value) for name, _, value in (setting.partition("=") for setting in settings)}
            times = given.pop("times", 1)
            if unknown := given.keys() - PARAMETERS.keys():
                raise SystemExit(f"usbtest: no parameter {', '.join(unknown)}")
            cases.append((int(number), times, {**PARAMETERS, **given}))
        elif name == "device":
            device = value
        elif name == "wait":
            limit = float(value)
        elif name == "reload":
            reload = value != "0"
        else:
            options.append(word)
    if reload:
        load_driver(options)
    interface = bound_interface(device, limit)
    folder = f"/sys/bus/usb/devices/{interface.split(':')[0]}"
    node = f"/dev/bus/usb/{int(read(folder + '/busnum')):03}/{int(read(folder + '/devnum')):03}"
    number = int(read(f"/sys/bus/usb/devices/{interface}/bInterfaceNumber"), 16)
    show(device=interface.split(":")[0], speed=read(folder + "/speed"), seconds=round(time.monotonic() - started, 3))
    failed = 0
    file = os.open(node, os.O_RDWR)
    for case, times, parameters in cases:
        for _ in range(times):
            code, seconds = run_case(file, number, case, parameters)
            show(case=case, errno=code, error=errno.errorcode.get(code, ""), seconds=round(seconds, 4))
            failed += code != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
