"""A device of the user's own: a class in a file or in a module, as an address names it.

    virtual:./thermometer.py                   the one device in a file
    virtual:./thermometer.py:Thermometer       this one
    virtual:lab.devices:Thermometer            in a module that is installed beside usbferry

The file is run as a script is: what lies beside it can be imported. A mistake in it is told with its line.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
import sysconfig
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from ..devices.virtual import VirtualDevice
from ..usb import build

_OURS: Final = str(Path(__file__).parents[1]) + os.sep
_INSTALLED: Final = tuple({sysconfig.get_path(one) + os.sep for one in ("stdlib", "platstdlib", "purelib", "platlib")})


def is_own(name: str) -> bool:
    """Whether what stands behind `virtual:` is a class of the user's rather than a built-in device."""
    return ":" in name or name.endswith(".py")


def load(name: str) -> type[VirtualDevice]:
    """The class that `FILE.py`, `FILE.py:CLASS` or `MODULE:CLASS` means. Raises ValueError with a text for the user."""
    place, _, wanted = (name, "", "") if name.endswith(".py") else name.rpartition(":")
    module = load_file(Path(place).expanduser()) if place.endswith(".py") else _import(place)
    if not wanted:
        return _only_one(module, place)
    found = getattr(module, wanted, None)
    if inspect.isclass(found) and issubclass(found, VirtualDevice) and found is not VirtualDevice:
        return found
    if found is not None:
        raise ValueError(f"{place}{_line_of(found)}: {wanted} is no virtual device, a class derived from VirtualDevice")
    raise ValueError(f"{place} has no class {wanted!r}; its devices are: {_listed(_devices(module))}")


def load_file(path: Path) -> ModuleType:
    """The module that a file is, run once in a process, whoever imports it. Raises ValueError with file and line."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    known = next((m for m in tuple(sys.modules.values()) if _is_of(m, path)), None)
    if known is not None:
        return known
    if _is_for_facedancer(path):
        raise ValueError(f"{path} is a program for Facedancer: write facedancer:{path}")
    folder, name = str(path.resolve().parent), str(path.resolve())
    if folder not in sys.path:
        sys.path.append(folder)  # behind all others: a file beside it stands for no module of somebody else
    spec = util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(described(error, path)) from error
    return module


def check(device: VirtualDevice) -> None:
    """Whether its descriptors can be made, or raise what is wrong with them: a host would meet it much later."""
    build.device(device.info.device)
    for configuration in device.info.configurations:
        if not isinstance(configuration.interfaces, tuple):
            raise TypeError(f"interfaces are a tuple, not {configuration.interfaces!r}: is there a comma missing?")
        build.configuration(configuration)


def described(error: BaseException, path: Path | None) -> str:
    """What went wrong in a user's file, `FILE:LINE: ...`; `path` is where it went wrong when no line is known."""
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    place = f"{_short(str(path))}: " if path is not None else ""
    trace, is_his = error.__traceback__, False  # a line of his own says more than one of a library that he called
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((_OURS, "<frozen ")) and not (is_his and file.startswith(_INSTALLED)):
            place = f"{_short(file)}:{trace.tb_lineno}: "
            is_his = is_his or not file.startswith(_INSTALLED)
        trace = trace.tb_next
    return place + what


def _is_for_facedancer(path: Path) -> bool:
    """Whether it imports Facedancer, and nothing of ours. Such a file is not run: its `main` takes our command line for
    its own, and looks for a board."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):  # told with its line when it is run
        return False
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(one.name.partition(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return "facedancer" in names and "usbferry" not in names


def failed(factory: type[VirtualDevice], error: Exception) -> str:
    """Why no device could be made of a class of the user's."""
    text = described(error, None)
    if text.startswith(type(error).__name__):  # it was noticed by us, and not in a line of his
        return f"{_short(inspect.getfile(factory))}{_line_of(factory)}: {text}"
    return text


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{name!r} is neither a module nor a file: a file is written virtual:PATH.py:CLASS")
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"there is no module {error.name!r} beside usbferry; a file is written virtual:PATH.py:CLASS"
            ) from None
        raise ValueError(described(error, None)) from error
    except (Exception, SystemExit) as error:
        raise ValueError(described(error, None)) from error


def _is_of(module: Any, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or os.path.basename(file) != path.name:
        return False
    try:
        return os.path.samefile(file, path)
    except OSError:
        return False  # its file is not there any more


def _devices(module: ModuleType) -> dict[str, type[VirtualDevice]]:
    """The devices that a module defines, by name; what begins with an underscore is for others to derive from."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, VirtualDevice)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


def _only_one(module: ModuleType, place: str) -> type[VirtualDevice]:
    found = _devices(module)
    if not found:
        raise ValueError(f"{place} has no virtual device: a class derived from VirtualDevice")
    if len(found) > 1:
        raise ValueError(f"{place} has several devices, say which: {', '.join(f'virtual:{place}:{n}' for n in found)}")
    return next(iter(found.values()))


def _listed(found: dict[str, type[VirtualDevice]]) -> str:
    return ", ".join(found) or "none"


def _line_of(one: Any) -> str:
    """`:LINE` of a definition, where it is known."""
    try:
        return f":{inspect.getsourcelines(one)[1]}"
    except (OSError, TypeError):
        return ""


def _short(file: str) -> str:
    """A file's name as seen from the working directory, where that is shorter."""
    near = os.path.relpath(file) if os.path.splitdrive(file)[0] == os.path.splitdrive(os.getcwd())[0] else file
    return near if len(near) < len(file) else file
