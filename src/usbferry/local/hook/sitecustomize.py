"""What `usbferry run` puts into a program, whose Python imports it when it starts: pyusb's backend is ours.

The program may have any Python, with or without usbferry in it. So this file is written for old ones too (3.6), and
takes usbferry from where `usbferry run` is; besides that package, the program sees nothing of that place. Every Python
that the program starts reads it, pyusb or not, so it imports little.
"""

import os
import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_HERE = os.path.dirname(os.path.abspath(__file__))
_HOOKED = "usb.backend.libusb1"  # the first that pyusb's `find` asks, and the one that others ask themselves
_LEAST = (3, 11)


def _fail(text: str) -> "NoReturn":
    sys.stderr.write(f"usbferry run: {text}\n")
    sys.stderr.flush()
    sys.exit(2)


def _backend() -> "Any":
    if sys.version_info < _LEAST:
        version = ".".join(map(str, sys.version_info[:2]))
        _fail(f"{sys.executable} is Python {version}; it must be 3.11 or later; install the program for a newer one")
    import json

    try:
        from usbferry.local.pyusb import Backend
    except ImportError as error:
        home = os.environ["USBFERRY_RUN_HOME"]
        _fail(f"{sys.executable} cannot import usbferry ({error}); install it there too, or let this user read {home}")
    return Backend(*json.loads(os.environ["USBFERRY_RUN_DEVICES"]))


class _Loader:
    """Loads pyusb's module as it is, and then has it give our backend."""

    def __init__(self, loader: "Any") -> None:
        self._loader = loader

    def create_module(self, spec: "Any") -> "Any":
        return self._loader.create_module(spec)

    def exec_module(self, module: "Any") -> None:
        self._loader.exec_module(module)
        made: list[Any] = []

        def get_backend(find_library: "Any" = None) -> "Any":
            if not made:
                made.append(_backend())
            return made[0]

        module.get_backend = get_backend

    def __getattr__(self, name: str) -> "Any":
        """What else may be asked of a loader: source, resources."""
        return getattr(self._loader, name)


class _Finder:
    """Finds usbferry, and takes note of pyusb's backend."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._is_looking = False

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name == "usbferry":
            return PathFinder.find_spec(name, [self._home])
        if name != _HOOKED or self._is_looking:
            return None
        import importlib.util

        self._is_looking = True
        try:
            spec = importlib.util.find_spec(name)  # of whoever else finds modules
        finally:
            self._is_looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]  # its base class would cost an import
        return spec


def _chain() -> None:
    """Import the `sitecustomize` that this one stands before, if there is one."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    import importlib.util

    module = sys.modules["sitecustomize"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if "USBFERRY_RUN_DEVICES" in os.environ and "USBFERRY_RUN_HOME" in os.environ:
    sys.meta_path.insert(0, _Finder(os.environ["USBFERRY_RUN_HOME"]))
_chain()
