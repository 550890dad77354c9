"""A clone says of itself what its original says, byte by byte, and its file reads well."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.test_device import ADDRESSES
from tests.devices.host import ask, opened
from usbferry.backends import portrait as asking
from usbferry.backends.clone import class_name, clone, text
from usbferry.backends.portrait import Portrait, look
from usbferry.backends.virtual import described
from usbferry.device import DeviceError
from usbferry.devices.virtual import VirtualDevice
from usbferry.registry import DEVICES
from usbferry.usb import build
from usbferry.usb.info import DeviceInfo
from usbferry.usb.setup import Setup, get_descriptor
from usbferry.usb.transfer import Completion
from usbferry.usb.tree import Bos, Configuration, DeviceDescriptor, Endpoint, Interface, PlatformCapability
from usbferry.usb.types import Speed, Status, TransferType

# But that which says that its strings are in no language, and so cannot be asked for them.
EVERY = [ADDRESSES.get(row, f"virtual:{row}") for row in sorted(DEVICES) if row != "broken"]
SPEEDS = [
    "virtual:zero?speed=super",
    "virtual:zero?speed=super%2B",
    "virtual:zero?speed=full",
    "virtual:disk?size=1M&speed=super",
]


def made(source: str) -> VirtualDevice:
    """The device of a file's text."""
    names: dict[str, object] = {"__name__": "cloned"}
    exec(compile(source, "cloned.py", "exec"), names)
    [kind] = [
        v for v in names.values() if isinstance(v, type) and v is not VirtualDevice and issubclass(v, VirtualDevice)
    ]
    return kind()


async def says(device: VirtualDevice) -> dict[str, bytes | int]:
    """All descriptors, and what is refused."""
    asked = {
        f"{kind}.{index}": get_descriptor(kind, index, length=4096) for kind in (1, 2, 6, 7, 15) for index in range(3)
    }
    asked |= {f"string {index}": get_descriptor(3, index, language=0x0409 * bool(index)) for index in range(16)}
    asked |= {f"report {n}": Setup(0x81, 6, 0x2200, n, 4096) for n in range(4)}
    found: dict[str, bytes | int] = {}
    async with opened(device):
        for name, setup in asked.items():
            answer = ask(device, setup)
            answer = answer if isinstance(answer, Completion) else await answer
            found[name] = bytes(answer.data) if answer.status == Status.OK else answer.status
    return found


@pytest.mark.parametrize("address", [*EVERY, *SPEEDS])
async def test_a_clone_says_what_its_original_says(address: str) -> None:
    original = described(address)
    async with opened(original):
        copy = made(text(await look(original), address))
    ours_says, theirs_says = await says(copy), await says(original)
    if theirs_says["string 0"] == b"\x02\x03":  # of no language: a broken one
        del ours_says["string 0"], theirs_says["string 0"]
    assert ours_says == theirs_says
    ours, theirs = copy.info, original.info
    assert (ours.speed, ours.title, ours.serial) == (theirs.speed, theirs.title, theirs.serial)
    assert ours.configurations == theirs.configurations


@pytest.mark.parametrize("address", ["virtual:headset", "virtual:keyboard", "virtual:uas?size=1M"])
async def test_a_clone_is_a_device_that_can_be_used(address: str) -> None:
    """Each of its endpoints answers, or waits, as its file says."""
    copy = made(await clone(address))
    assert {e.address for c in copy.info.configurations for i in c.interfaces for e in i.endpoints} == set(
        type(copy)._endpoint_handlers
    )
    assert await clone_of_clone(copy) == text(Portrait(copy.info, *await looked(copy)), "again")


async def looked(device: VirtualDevice) -> tuple[dict[int, str], Bos | None, dict[int, bytes]]:
    async with opened(device):
        portrait = await look(device)
    return portrait.strings, portrait.bos, portrait.reports


async def clone_of_clone(device: VirtualDevice) -> str:
    async with opened(device):
        return text(await look(device), "again")


@pytest.mark.slow
def test_its_file_has_no_mistakes() -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("needs ruff")
    for address in EVERY:
        source = asyncio.run(clone(address))
        for words in (["check", "--select", "E,F,W,I,UP,B,SIM,C4"], ["format", "--diff"]):
            command = [ruff, *words, "--isolated", "--line-length", "120", "-"]
            done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout


async def test_what_cannot_be_cloned_says_why() -> None:
    with pytest.raises(ValueError, match="no kind of address 'nothing'"):
        await clone("nothing:x")
    with pytest.raises(DeviceError):
        await clone("usbip://127.0.0.1:1/1-1")


async def test_a_device_that_refuses_its_strings_or_is_slow_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_ASK_SECONDS", 0.01)
    late = described("virtual:zero?serial=1")
    late.faults.late(0, seconds=99, request=6, times=0)
    assert (await looked(late))[0] == {}
    refusing = described("virtual:zero?serial=1")
    refusing.faults.stall(0, request=6, times=0)
    assert (await looked(refusing))[0] == {}
    await asyncio.sleep(0)


STRANGE = st.text(max_size=30)


@given(
    STRANGE,
    STRANGE,
    st.dictionaries(st.integers(1, 255), STRANGE, max_size=4),
    st.binary(max_size=60),
    st.integers(0, 3),
)
def test_whatever_a_device_says_its_file_is_python_and_the_same(
    product: str, manufacturer: str, strings: dict[int, str], junk: bytes, index: int
) -> None:
    """Also names that are code, and descriptors of no sense."""
    raw = bytes([len(junk) + 2, 0x24]) + junk
    endpoints = (Endpoint(0x81, TransferType.BULK, 0xFFFF, 255, extra=(raw,), tail=b"\1"), Endpoint(0x01, 0xFD, 0))
    configuration = Configuration(
        200, (Interface(255, 7, endpoints=endpoints, extra=(raw, raw), tail=b"\0"),), 0, 255, 3, extra=(raw,), tail=b"x"
    )
    device = DeviceDescriptor(0xFFFF, 0, 0xFFFF, 255, 255, 255, 64, 0xFFFF, index, 2, 0, 1)
    bos = Bos((PlatformCapability(bytes(16), junk),))
    info = DeviceInfo("", device, (configuration,), Speed.HIGH, manufacturer=manufacturer, product=product)
    made_of_it = text(Portrait(info, strings, bos, {0: junk}), f"'''\"\"\"{product}\n")
    names: dict[str, object] = {"__name__": "cloned"}
    exec(compile(made_of_it, "cloned.py", "exec"), names)
    kind = names[class_name(info)]
    assert isinstance(kind, type)
    assert (kind.product, kind.manufacturer, kind.bos) == (product, manufacturer, bos)
    assert build.configuration(kind.configurations(None)[0]) == build.configuration(configuration)
    assert {**kind.strings, **strings} == {**strings, **kind.strings}
