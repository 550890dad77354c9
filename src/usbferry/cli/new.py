"""`usbferry new`: a device of one's own to start from, and its test; with `--like`, one that is like another."""

from __future__ import annotations

import keyword
import re
import sys
from importlib import util
from pathlib import Path
from typing import Final

import click

from ..device import DeviceError
from . import fail
from .address import whole_address

_TEXTS: Final = Path(__file__).parent / "starting_point"
_MODULE: Final = "my_device"  # what the texts call it
_TEST_LIKE: Final = '''"""What {words} says of itself. Run it: python -m pytest"""

from usbferry.testing import PlugIn

from {module} import {kind}


def test_it_is_what_it_is_like(usb_device: PlugIn) -> None:
    with usb_device({kind}()).open() as usb:
        assert usb.info.ids == "{ids}"
        assert [i.interface_class for i in usb.interfaces] == {classes}
'''


@click.command()
@click.argument("name", type=click.Path(path_type=Path), metavar="NAME")
@click.option("--like", metavar="ADDRESS", help="with the descriptors and strings of the device at ADDRESS")
def command(name: Path, like: str | None) -> None:
    """Write a USB device of your own to start from, and its test, into a new folder NAME.

    \b
    The device has what most have: vendor requests, bulk endpoints, an
    interrupt endpoint, options. It works as it is:
      usbferry new thermometer
      cd thermometer
      python -m pytest
      usbferry serve virtual:./thermometer.py

    With --like it says of itself what that device says, which is opened
    for a moment, and does nothing yet.
    """
    try:
        written = write(name, like)
    except (ValueError, DeviceError) as error:
        fail(f"usbferry new: {error}")
    except OSError as error:
        fail(f"usbferry new: {error.filename}: {error.strerror}")
    device, test = written
    width = max(len(str(one)) for one in written)
    print(f"{device!s:{width}}  the device: change it")
    print(f"{test!s:{width}}  its test")
    print("Try it:")
    for line in _next(name, device):
        print(f"  {line}")


def write(folder: Path, like: str | None = None) -> tuple[Path, Path]:
    """The device's file and its test's, in a folder of their own; `like` the device at this address.

    Raises ValueError with a text for the user; DeviceError where that device cannot be read.
    """
    module = folder.name.replace("-", "_").replace(" ", "_")
    check(folder.name, module)
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} is there already; choose another name, or take it away")
    texts = (_renamed("device", module), _renamed("test", module)) if like is None else _alike(module, like)
    folder.mkdir(parents=True)
    device, test = folder / f"{module}.py", folder / f"test_{module}.py"
    device.write_text(texts[0], encoding="utf-8")
    test.write_text(texts[1], encoding="utf-8")
    return device, test


def _alike(module: str, address: str) -> tuple[str, str]:
    """The texts of a device like that at an address, and of its test."""
    import asyncio

    from ..backends.clone import text
    from ..backends.portrait import portray

    address = whole_address(address)
    portrait = asyncio.run(portray(address))
    info, kind = portrait.info, _class(module)
    classes = [interface.interface_class for interface in info.interfaces]
    test = _TEST_LIKE.format(words=_words(module), module=module, kind=kind, ids=info.ids, classes=classes)
    return text(portrait, address, kind), test


def check(name: str, module: str) -> None:
    """Whether a device can be called so. Raises ValueError with a text for the user."""
    if not module.isidentifier() or keyword.iskeyword(module):
        raise ValueError(f"{name!r} cannot be a Python module's name: letters, digits, - and _, and a letter first")
    if module in sys.stdlib_module_names or _is_module(module):
        raise ValueError(f"{name!r}: there is a Python module of that name already, which it would hide")
    kind = _class(module)
    if any(re.search(rf"\b{kind}\b", _text(one)) for one in ("device", "test")) and module != _MODULE:
        raise ValueError(f"{name!r}: {kind} is a name that its file needs for something else")


def _is_module(name: str) -> bool:
    spec = util.find_spec(name)
    return spec is not None and spec.origin is not None  # a folder alone is one as well


def _class(module: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in module.split("_"))


def _text(name: str) -> str:
    return (_TEXTS / f"{name}.txt").read_text(encoding="utf-8")


def _words(module: str) -> str:
    return module.replace("_", " ").strip()


def _renamed(name: str, module: str) -> str:
    words = _words(module)
    text = _text(name).replace(_MODULE, module).replace(_class(_MODULE), _class(module))
    return text.replace("My device", words[:1].upper() + words[1:]).replace("my device", words)


def _next(folder: Path, device: Path) -> list[str]:
    from ..extras import install, python

    return [
        f"cd {folder}",
        *([install("pytest")] if util.find_spec("pytest") is None else []),
        f"{python()} -m pytest",
        f"usbferry info virtual:./{device.name}",
        f"usbferry serve virtual:./{device.name}",
    ]
