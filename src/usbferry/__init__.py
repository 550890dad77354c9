"""usbferry carries USB devices across machines: any device, any user, over USB/IP, usbredir or ferry."""

from importlib.metadata import version as _version

__version__ = _version("usbferry")
