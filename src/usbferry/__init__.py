"""usbferry carries USB devices across machines: any device, any user, over USB/IP, usbredir or ferry.

    with usbferry.open("usbip://host/1-2") as device:
        device.write(0x01, b"hello")
        print(device.read(0x81, 64, timeout=1.0))

`usbferry.aio` is the same for asyncio. `open` raises a DeviceError, everything after it a TransferError; what could
never work is a ValueError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from . import aio
    from .aio import DeviceGone, Stalled, TimedOut, TransferError
    from .device import Busy, DeviceError, NotFound, Unavailable
    from .local.pyusb import Backend
    from .local.sync import open
    from .selector import Ambiguous

__all__ = [
    "Ambiguous",
    "Busy",
    "DeviceError",
    "DeviceGone",
    "NotFound",
    "Stalled",
    "TimedOut",
    "TransferError",
    "Unavailable",
    "__version__",
    "aio",
    "open",
    "pyusb_backend",
]

_HOMES: Final = {
    "Ambiguous": "selector",
    **dict.fromkeys(("Busy", "DeviceError", "NotFound", "Unavailable"), "device"),
    **dict.fromkeys(("DeviceGone", "Stalled", "TimedOut", "TransferError"), "aio"),
    "open": "local.sync",
}


def pyusb_backend(*addresses: str) -> Backend:
    """The devices at `addresses` for pyusb: `usb.core.find(backend=usbferry.pyusb_backend("usbip://host"))`.

    Any number of addresses, such as "usbip://host" for all that a server has, or "usbip://host/1-2" for one device.
    Keep the backend: each one imports devices for itself. Raises ValueError for an address that makes no sense, and
    ImportError where pyusb is not installed.
    """
    try:
        from .local.pyusb import Backend
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "usb":
            raise
        from .extras import install

        raise ModuleNotFoundError(f"pyusb is not installed: {install('pyusb')}", name=error.name) from None
    return Backend(*addresses)


def __getattr__(name: str) -> Any:
    """Import only what is asked for: `usbferry --help` needs none of it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("usbferry")
    if name == "aio" or name in _HOMES:
        from importlib import import_module

        module = import_module(f"{__name__}.{_HOMES.get(name, name)}")
        return module if name == "aio" else getattr(module, name)
    raise AttributeError(f"module 'usbferry' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is imported when it is asked for is there too, for `dir` and `help`."""
    return sorted({*globals(), *__all__})
