"""`facedancer:FILE.py`: a device written for Facedancer 3, unmodified; also `FILE.py:CLASS` and `MODULE:CLASS`.

A file is run as the program that it is, up to the moment in which it hands its device to a board: we are the board. The
coroutines that it hands over run beside the device from its first claim on. A file that hands over nothing, but has one
class of device, means that. Options: `args=` are the program's words, `speed=` is the device's, and `fault=`.
"""

from __future__ import annotations

import inspect
import logging
import runpy
import shlex
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from ..device import Claimant, Device, DeviceError, Source, Watching
from ..devices import fault
from ..devices.facedanced import Facedanced
from ..extras import install
from ..usb.info import DeviceInfo
from . import options
from .virtual import VirtualSource

log: Final = logging.getLogger(__name__)


class Program(NamedTuple):
    """What a program hands to its board."""

    device: Any  # a facedancer.USBDevice
    coroutines: tuple[Coroutine[Any, Any, Any], ...] = ()


class _Handed(BaseException):
    """The way out of a program that has handed over its device: it would catch an Exception."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program


class FacedancerSource(Source):
    """One device, whose program is run when it is first asked for. Raises ValueError for a bad address, or no file."""

    def __init__(self, address: str) -> None:
        self.address = address
        bare, _, query = address.partition(":")[2].partition("?")
        self._target = unquote(bare)
        if not self._target or not (self._target.endswith(".py") or ":" in self._target):
            raise ValueError(f"{address!r}: write it as facedancer:FILE.py, facedancer:FILE.py:CLASS or MODULE:CLASS")
        self._faults, given = list[fault.Fault](), dict[str, str]()
        for key, text in options.split(query):
            if key == "fault":
                self._faults.append(fault.parse(text))
            else:
                given[key] = text
        self._args = given.pop("args", "")
        self._options = options.arguments("facedancer", Facedanced, given, also=("args", "fault"))
        if (file := _file(self._target)) is not None and not file.is_file():
            raise ValueError(f"there is no file {file}")
        self._there: VirtualSource | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        device = self._there.device if self._there is not None else None
        if not isinstance(device, Facedanced) or not (dead := device.isochronous_endpoints):
            return ()
        these = ", ".join(f"{address:#04x}" for address in dead)
        return (f"note: Facedancer has no isochronous transfers, so nothing moves on {these}",)

    def _load(self) -> VirtualSource:
        """The device; what is wrong with its program is a DeviceError."""
        if self._there is None:
            try:
                program = load(self._target, shlex.split(self._args))
                device = Facedanced(*program, **self._options)
                for one in self._faults:
                    device.faults.add(one)
            except ValueError as error:
                raise DeviceError(f"{self._target}: {error}") from error
            except Exception as error:
                raise DeviceError(f"{self._target}: {type(error).__name__}: {error}") from error
            self._there = VirtualSource(self.address, device)
        return self._there

    async def list(self) -> list[DeviceInfo]:
        return await self._load().list()

    async def open(self, name: str, claimant: Claimant) -> Device:
        return await self._load().open(name, claimant)

    def watch(self) -> Watching:
        try:
            return self._load().watch()
        except DeviceError:  # which `list` tells
            nothing = Watching()
            nothing.tell(None)
            return nothing

    async def close(self) -> None:
        if self._there is not None:
            await self._there.close()


# -- programs ----------------------------------------------------------------------------------------------------------


def load(target: str, words: list[str]) -> Program:
    """What `FILE.py`, `FILE.py:CLASS` or `MODULE:CLASS` hands over. Raises ValueError with a text for the user."""
    base = _facedancer()
    place, wanted = _parts(target)
    file = _file(target)
    found = _run(file, words, base, is_program=not wanted) if file is not None else vars(_module(place))
    if isinstance(found, Program):
        return found
    devices = {name: value for name, value in found.items() if _is_device(value, base) and _is_own(value, found)}
    if wanted:
        if not _is_device(found.get(wanted), base):
            raise ValueError(f"it has no device {wanted!r}; there are: {', '.join(devices) or 'none'}")
        return Program(found[wanted]())
    if len(devices) != 1:
        these = f"has several: {', '.join(devices)}; write {place}:CLASS" if devices else "has none"
        raise ValueError(f"it hands no device to main(), and {these}")
    return Program(next(iter(devices.values()))())


def _parts(target: str) -> tuple[str, str]:
    """The file or module, and the class, empty where none is named."""
    if target.endswith(".py"):
        return target, ""
    place, _, wanted = target.rpartition(":")
    return place, wanted


def _file(target: str) -> Path | None:
    place, _ = _parts(target)
    return Path(place).expanduser() if place.endswith(".py") else None


def _facedancer() -> Any:
    """The class of all its devices. Raises ValueError where there is no Facedancer."""
    try:
        return import_module("facedancer.device").USBBaseDevice
    except ModuleNotFoundError as error:
        raise ValueError(f"there is no Facedancer here ({error.name}): {install('facedancer')}") from error


def _is_device(value: Any, base: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value)


def _is_own(value: Any, found: dict[str, Any]) -> bool:
    """Whether a class is defined in the file, rather than imported there."""
    return bool(value.__module__ == found.get("__name__"))


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"there is no module {error.name!r} beside usbferry; a file is written FILE.py:CLASS"
        ) from error


def _run(path: Path, words: list[str], base: Any, *, is_program: bool) -> Program | dict[str, Any]:
    """Run a file: what it hands over, or else its names."""
    if not path.is_file():  # no longer
        raise ValueError("there is no such file")
    with _as_program(path, words), _boards(base), _our_log():
        try:
            return runpy.run_path(str(path), run_name="__main__" if is_program else path.stem)
        except _Handed as handed:
            if is_program:
                return handed.program
            raise ValueError("it runs its device when it is imported; leave out the class") from None
        except SystemExit as error:
            raise ValueError(
                f"the program ended by itself ({error.code}); does it need words? write args=..."
            ) from error
        except Exception as error:
            raise ValueError(f"{_line(error, path)}{type(error).__name__}: {error}") from error


def _line(error: Exception, path: Path) -> str:
    """`line N: ` of the file, where it went wrong."""
    at, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            at = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        at = error.lineno or at
    return f"line {at}: " if at else ""


@contextmanager
def _as_program(path: Path, words: list[str]) -> Iterator[None]:
    """Its own words, and what lies beside it can be imported, also later by its coroutines."""
    argv, folder = sys.argv, str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    sys.argv = [str(path), *words]
    try:
        yield
    finally:
        sys.argv = argv


@contextmanager
def _our_log() -> Iterator[None]:
    """What is logged, and where, is for who serves the device to say: `main` sets it up for a program of its own."""
    root, modules = logging.getLogger(), [import_module(f"facedancer.{name}") for name in ("logging", "devices")]
    level, handlers, configure = root.level, root.handlers[:], modules[0].configure_default_logging
    for module in modules:
        setattr(module, configure.__name__, lambda *_, **__: None)
    try:
        yield
    finally:
        for module in modules:
            setattr(module, configure.__name__, configure)
        root.setLevel(level)
        root.handlers[:] = handlers
        logging.getLogger("facedancer").setLevel(logging.NOTSET)


@contextmanager
def _boards(base: Any) -> Iterator[None]:
    """While a program runs, its device is handed to us in each of the ways in which one is handed to a board."""

    def hand(device: Any, *coroutines: Coroutine[Any, Any, Any]) -> None:
        raise _Handed(Program(device, coroutines))

    async def run(device: Any) -> None:
        raise _Handed(Program(device))

    names = {"emulate": hand, "run_with": hand, "run": run, "connect": lambda device, *_, **__: None}
    former = {name: getattr(base, name) for name in names}
    for name, method in names.items():
        setattr(base, name, method)
    try:
        yield
    finally:
        for name, method in former.items():
            setattr(base, name, method)
