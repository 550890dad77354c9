"""usbferry carries USB devices across machines: any device, any user, over USB/IP, usbredir or ferry.

    with usbferry.open("usbip://host/1-2") as device:
        device.write(0x01, b"hello")
        print(device.read(0x81, 64, timeout=1.0))

`usbferry.aio` is the same for asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .local.pyusb import Backend
    from .local.sync import open

__all__ = ["__version__", "open", "pyusb_backend"]


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
        raise ModuleNotFoundError('this needs: pip install "usbferry[pyusb]"', name=error.name) from None
    return Backend(*addresses)


def __getattr__(name: str) -> Any:
    """Import only what is asked for: `usbferry --help` needs none of it."""
    if name == "open":
        from .local.sync import open

        return open
    if name == "__version__":
        from importlib.metadata import version

        return version("usbferry")
    raise AttributeError(f"module 'usbferry' has no attribute {name!r}")
