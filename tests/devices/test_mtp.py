"""The media device: containers as hosts send them, operations, large files, cancels, a folder that changes."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from struct import unpack_from
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.host import ask, opened, read, turn, write
from usbferry.backends.virtual import make
from usbferry.devices.clock import VirtualClock
from usbferry.devices.mtp import Mtp
from usbferry.devices.ptp import packing
from usbferry.devices.ptp.codes import (
    ROOT,
    STORAGE_ID,
    TAKES_DATA,
    WRITES,
    Event,
    Format,
    Kind,
    Operation,
    Property,
    Response,
    Type,
)
from usbferry.devices.ptp.packing import HEADER, container, header
from usbferry.devices.ptp.store import NoObject, Store, is_name
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Status

OUT, IN, INTERRUPT = 0x01, 0x82, 0x83
CONTENT = bytes(range(256)) * 8


class Host:
    """Speaks PTP to a device in the same loop; `size` is that of its reads."""

    def __init__(self, device: Mtp, size: int = 16384) -> None:
        self.device, self.size, self.transaction = device, size, 0

    async def start(self) -> Host:
        assert await self.code(Operation.OPEN_SESSION, 1) == Response.OK
        return self

    async def send(self, raw: bytes) -> int:
        answer = self.device.submit(write(OUT, raw))
        return (answer if isinstance(answer, Completion) else await asyncio.wait_for(answer, 10)).status

    async def container(self) -> tuple[int, int, bytes]:
        """Kind, code and what is behind the header, from transfers up to a short one."""
        raw = b""
        while True:
            answer = self.device.submit(read(IN, self.size))
            answer = answer if isinstance(answer, Completion) else await asyncio.wait_for(answer, 10)
            assert answer.status == Status.OK
            raw += bytes(answer.data)
            if len(answer.data) < self.size:
                break
        length, kind, code, transaction = HEADER.unpack_from(raw)
        assert transaction == self.transaction
        assert length in (len(raw), packing.UNKNOWN)
        return kind, code, raw[HEADER.size :]

    async def command(self, code: int, *values: int) -> None:
        self.transaction += 1
        assert await self.send(container(Kind.COMMAND, code, self.transaction, *values)) == Status.OK

    async def does(self, code: int, *values: int) -> tuple[int, tuple[int, ...], bytes | None]:
        """An operation: its response, with parameters, and data."""
        await self.command(code, *values)
        return await self.answer()

    async def gives(self, code: int, data: bytes, *values: int) -> tuple[int, tuple[int, ...], bytes | None]:
        """The same with data of the host's, in transfers of its size."""
        await self.command(code, *values)
        raw = header(Kind.DATA, code, self.transaction, len(data)) + data
        for at in range(0, len(raw), self.size):
            assert await self.send(raw[at : at + self.size]) == Status.OK
        if not len(raw) % 512:
            assert await self.send(b"") == Status.OK
        return await self.answer()

    async def answer(self) -> tuple[int, tuple[int, ...], bytes | None]:
        kind, code, body = await self.container()
        data = None
        if kind == Kind.DATA:
            data = body
            kind, code, body = await self.container()
        assert kind == Kind.RESPONSE
        return code, tuple(unpack_from("<I", body, at)[0] for at in range(0, len(body), 4)), data

    async def code(self, code: int, *values: int) -> int:
        return (await self.does(code, *values))[0]

    async def data(self, code: int, *values: int) -> bytes:
        response, _, data = await self.does(code, *values)
        assert response == Response.OK
        assert data is not None
        return data

    async def handles(self, parent: int = ROOT, format: int = 0) -> list[int]:
        return numbers(await self.data(Operation.GET_OBJECT_HANDLES, ROOT, format, parent))

    async def names(self, parent: int = ROOT) -> dict[str, int]:
        found = {}
        for handle in await self.handles(parent):
            raw = await self.data(Operation.GET_OBJECT_PROP_VALUE, handle, Property.FILE_NAME)
            found[packing.read_text(raw)] = handle
        return found


def numbers(raw: bytes) -> list[int]:
    (count,) = unpack_from("<I", raw)
    size = (len(raw) - 4) // count if count else 4
    return [int.from_bytes(raw[at : at + size], "little") for at in range(4, len(raw), size)]


def announced(name: str, size: int, format: int = Format.UNDEFINED) -> bytes:
    return packing.info(0, format, 0, size, 0, format == Format.FOLDER, name, 0.0)


@pytest.fixture
def folder(tmp_path) -> Path:
    """With a file, a folder that has another, and a link out of it."""
    shown = tmp_path / "shown"
    (shown / "sub").mkdir(parents=True)
    (shown / "noise.bin").write_bytes(CONTENT)
    (shown / "sub" / "photo.jpg").write_bytes(b"jpeg")
    (tmp_path / "secret").write_text("secret")
    (shown / "link").symlink_to(tmp_path / "secret")
    return shown


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [512, 1024, 16384, 1 << 20])
async def test_a_folder_is_listed_and_copied(folder, size):
    async with opened(Mtp(folder=folder)) as device:
        host = await Host(device, size).start()
        assert numbers(await host.data(Operation.GET_STORAGE_IDS)) == [STORAGE_ID]
        names = await host.names()
        assert sorted(names) == ["noise.bin", "sub"], "links lead nowhere"
        assert await host.data(Operation.GET_OBJECT, names["noise.bin"]) == CONTENT
        inner = await host.names(names["sub"])
        assert await host.data(Operation.GET_OBJECT, inner["photo.jpg"]) == b"jpeg"
        assert sorted(await host.handles(0)) == sorted([*names.values(), *inner.values()])
        assert await host.handles(0, Format.JPEG) == [inner["photo.jpg"]]
        assert (await host.does(Operation.GET_NUM_OBJECTS, ROOT, 0, ROOT))[1] == (2,)


@pytest.mark.parametrize("size", [0, 1, 499, 500, 501, 1012, 1524, 65536])
async def test_any_size_is_copied(tmp_path, size):
    """Containers that fill their last packet are ended by an empty one."""
    (tmp_path / "file").write_bytes(os.urandom(size))
    async with opened(Mtp(folder=tmp_path)) as device:
        host = await Host(device, 512).start()
        [handle] = await host.handles()
        assert await host.data(Operation.GET_OBJECT, handle) == (tmp_path / "file").read_bytes()


async def test_pieces(folder):
    async with opened(Mtp(folder=folder)) as device:
        host = await Host(device).start()
        handle = (await host.names())["noise.bin"]
        assert await host.does(Operation.GET_PARTIAL_OBJECT, handle, 100, 50) == (Response.OK, (50,), CONTENT[100:150])
        assert (await host.does(Operation.GET_PARTIAL_OBJECT, handle, 2040, 50))[1:] == ((8,), CONTENT[2040:])
        assert (await host.does(Operation.GET_PARTIAL_OBJECT, handle, 2048, 50))[1:] == ((0,), b"")
        assert await host.code(Operation.GET_PARTIAL_OBJECT, handle, 2049, 1) == Response.INVALID_PARAMETER


async def test_a_file_larger_than_memory_goes_through(tmp_path):
    """Its size is said in a property of 64 bits, and no more is read than was asked for."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(5 << 30)
        file.seek(3 << 30)
        file.write(b"here")
    async with opened(Mtp(folder=tmp_path)) as device:
        host = await Host(device).start()
        [handle] = await host.handles()
        size = await host.data(Operation.GET_OBJECT_PROP_VALUE, handle, Property.SIZE)
        assert int.from_bytes(size, "little") == 5 << 30
        assert unpack_from("<I", await host.data(Operation.GET_OBJECT_INFO, handle), 8) == (packing.UNKNOWN,)
        assert (await host.does(Operation.GET_PARTIAL_OBJECT, handle, 3 << 30, 4))[2] == b"here"
        await host.command(Operation.GET_OBJECT, handle)
        answer = await asyncio.wait_for(device.submit(read(IN, 1 << 20)), 10)
        assert HEADER.unpack_from(bytes(answer.data)) == (
            packing.UNKNOWN,
            Kind.DATA,
            Operation.GET_OBJECT,
            host.transaction,
        )
        assert await cancel(device, host.transaction) == Status.OK
        assert await host.code(Operation.GET_NUM_OBJECTS) == Response.OK


async def test_a_file_that_became_shorter(folder):
    async with opened(Mtp(folder=folder)) as device:
        host = await Host(device, 512).start()
        handle = (await host.names())["noise.bin"]
        await host.command(Operation.GET_OBJECT, handle)
        first = await asyncio.wait_for(device.submit(read(IN, 512)), 10)
        assert len(first.data) == 512
        os.truncate(folder / "noise.bin", 600)
        rest = await asyncio.wait_for(device.submit(read(IN, 512)), 10)
        assert bytes(rest.data) == CONTENT[500:600]
        assert (await host.answer())[0] == Response.INCOMPLETE


async def test_what_it_says_of_itself(folder):
    async with opened(Mtp(folder=folder, product="Phone", serial="S1")) as device:
        raw = await Host(device).data(Operation.GET_DEVICE_INFO)
        assert raw[:8] == bytes.fromhex("6400 06000000 6400")
        for words in ("microsoft.com: 1.0;", "usbferry", "Phone", "S1"):
            assert packing.text(words) in raw
        assert Operation.SEND_OBJECT.to_bytes(2, "little") not in raw
        host = await Host(device).start()
        assert packing.read_text(await host.data(Operation.GET_DEVICE_PROP_VALUE, 0xD402)) == "shown"
        described = await host.data(Operation.GET_DEVICE_PROP_DESC, 0xD402)
        assert described[:5] == bytes.fromhex("02d4ffff00")
        info = await host.data(Operation.GET_STORAGE_INFO, STORAGE_ID)
        assert info[:6] == bytes.fromhex("0300 0200 0100")


async def test_properties(folder):
    async with opened(Mtp(folder=folder)) as device:
        host = await Host(device).start()
        names = await host.names()
        assert numbers(await host.data(Operation.GET_OBJECT_PROPS_SUPPORTED, Format.JPEG)) == list(Property)
        for one in Property:
            described = await host.data(Operation.GET_OBJECT_PROP_DESC, one, Format.JPEG)
            assert unpack_from("<H", described) == (one,)
            assert await host.data(Operation.GET_OBJECT_PROP_VALUE, names["sub"], one)
        assert await host.code(Operation.GET_OBJECT_PROP_VALUE, names["sub"], 0xDC99) == Response.INVALID_PROP_CODE
        assert numbers(await host.data(Operation.GET_OBJECT_REFERENCES, names["sub"])) == []


def listed(raw: bytes) -> list[tuple[int, int, object]]:
    """(handle, property, value) of a list of properties."""
    count, at, found = int.from_bytes(raw[:4], "little"), 4, []
    for _ in range(count):
        handle, code, kind = unpack_from("<IHH", raw, at)
        at += 8
        if kind == Type.TEXT:
            value: object = packing.read_text(raw[at:])
            at += 1 + 2 * raw[at]
        else:
            size = {Type.U16: 2, Type.U32: 4, Type.U64: 8, Type.U128: 16}[Type(kind)]
            value = int.from_bytes(raw[at : at + size], "little")
            at += size
        found.append((handle, code, value))
    assert at == len(raw)
    return found


async def test_properties_of_many_objects_at_once(folder):
    async with opened(Mtp(folder=folder)) as device:
        host = await Host(device).start()
        names = await host.names()
        noise, sub = names["noise.bin"], names["sub"]
        everything = listed(await host.data(Operation.GET_OBJECT_PROP_LIST, ROOT, 0, ROOT, 0, ROOT))
        assert len(everything) == 3 * len(Property)
        [photo] = [handle for handle, code, value in everything if (code, value) == (Property.FILE_NAME, "photo.jpg")]
        assert (photo, Property.PARENT, sub) in everything
        assert (noise, Property.SIZE, 2048) in everything
        sizes = await host.data(Operation.GET_OBJECT_PROP_LIST, 0, 0, Property.SIZE, 0, 1)
        assert listed(sizes) == [(noise, Property.SIZE, 2048), (sub, Property.SIZE, 0)]
        one = await host.data(Operation.GET_OBJECT_PROP_LIST, photo, Format.JPEG, Property.NAME, 0, 0)
        assert listed(one) == [(photo, Property.NAME, "photo.jpg")]
        assert listed(await host.data(Operation.GET_OBJECT_PROP_LIST, photo, Format.PNG, ROOT, 0, 0)) == []


@pytest.mark.parametrize(
    ("values", "response"),
    [
        ((1, 0, 0, 0, 0), Response.INVALID_PARAMETER),
        ((1, 0, 0, 1, 0), Response.BY_GROUP_UNSUPPORTED),
        ((1, 0, ROOT, 0, 1), Response.BY_DEPTH_UNSUPPORTED),
        ((ROOT, 0, ROOT, 0, 2), Response.BY_DEPTH_UNSUPPORTED),
        ((99, 0, ROOT, 0, 0), Response.INVALID_HANDLE),
        ((1, 0, 0xDC99, 0, 0), Response.INVALID_PROP_CODE),
    ],
)
async def test_lists_of_properties_that_there_are_not(folder, values, response):
    async with opened(Mtp(folder=folder)) as device:
        host = await Host(device).start()
        await host.names()
        assert await host.code(Operation.GET_OBJECT_PROP_LIST, *values) == response


async def test_microsofts_descriptors_say_mtp():
    async with opened(Mtp()) as device:
        answer: Any = ask(device, Setup(0x80, 6, 0x03EE, 0, 18))
        assert bytes(answer.data) == b"\x12\x03" + "MSFT100M".encode("utf-16-le")
        answer = ask(device, Setup(0xC0, 0x4D, 0, 4, 40))
        assert len(answer.data) == 40
        assert bytes(answer.data)[18:26] == b"MTP".ljust(8, b"\0")
        answer = ask(device, Setup(0xC0, 0x4D, 0, 5, 40))
        assert answer.status == Status.STALL


@pytest.mark.parametrize(
    ("code", "values", "response"),
    [
        (0x1FFF, (), Response.NOT_SUPPORTED),
        (Operation.OPEN_SESSION, (0,), Response.INVALID_PARAMETER),
        (Operation.OPEN_SESSION, (5,), Response.SESSION_OPEN),
        (Operation.GET_STORAGE_INFO, (7,), Response.INVALID_STORAGE),
        (Operation.GET_OBJECT_HANDLES, (7, 0, ROOT), Response.INVALID_STORAGE),
        (Operation.GET_OBJECT_HANDLES, (ROOT, 0, 99), Response.INVALID_PARENT),
        (Operation.GET_OBJECT_HANDLES, (ROOT, 0, 1), Response.INVALID_PARENT),
        (Operation.GET_OBJECT_INFO, (99,), Response.INVALID_HANDLE),
        (Operation.GET_OBJECT, (2,), Response.INVALID_HANDLE),
        (Operation.GET_OBJECT, (0,), Response.INVALID_HANDLE),
        (Operation.GET_DEVICE_PROP_VALUE, (0x5001,), Response.DEVICE_PROP_NOT_SUPPORTED),
        (Operation.DELETE_OBJECT, (1,), Response.STORE_READ_ONLY),
    ],
)
async def test_what_is_refused(folder, code, values, response):
    async with opened(Mtp(folder=folder)) as device:
        host = await Host(device).start()
        await host.names()
        assert await host.code(code, *values) == response
        assert (folder / "noise.bin").exists()


async def test_without_a_session_there_is_little():
    async with opened(Mtp()) as device:
        host = Host(device)
        assert await host.code(Operation.GET_STORAGE_IDS) == Response.SESSION_NOT_OPEN
        await host.start()
        assert await host.code(Operation.CLOSE_SESSION) == Response.OK
        assert await host.code(Operation.GET_STORAGE_IDS) == Response.SESSION_NOT_OPEN


@pytest.mark.parametrize("code", TAKES_DATA)
async def test_one_that_is_only_read_takes_nothing(folder, code):
    async with opened(Mtp(folder=folder)) as device:
        host = await Host(device).start()
        assert (await host.gives(code, announced("new", 5), 0, ROOT))[0] == Response.STORE_READ_ONLY
        assert sorted(os.listdir(folder)) == ["link", "noise.bin", "sub"]


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 500, 1012, 100_000])
@pytest.mark.parametrize("piece", [512, 16384])
async def test_a_file_is_sent(folder, size, piece):
    content = os.urandom(size)
    async with opened(Mtp(folder=folder, write=True)) as device:
        host = await Host(device, piece).start()
        parent = (await host.names())["sub"]
        response, values, _ = await host.gives(
            Operation.SEND_OBJECT_INFO, announced("new.bin", size), STORAGE_ID, parent
        )
        assert (response, values[:2]) == (Response.OK, (STORAGE_ID, parent))
        assert not (folder / "sub" / "new.bin").exists(), "before it is all there"
        assert "new.bin" not in await host.names(parent)
        assert (await host.gives(Operation.SEND_OBJECT, content))[0] == Response.OK
        assert (folder / "sub" / "new.bin").read_bytes() == content
        assert (await host.names(parent))["new.bin"] == values[2]


async def test_a_folder_is_made_renamed_and_deleted(folder):
    async with opened(Mtp(folder=folder, write=True)) as device:
        host = await Host(device).start()
        info = announced("new", 0, Format.FOLDER)
        _, (_, _, handle), _ = await host.gives(Operation.SEND_OBJECT_INFO, info, 0, ROOT)
        assert (folder / "new").is_dir()
        await host.gives(Operation.SEND_OBJECT_INFO, announced("a", 1), 0, handle)
        assert (await host.gives(Operation.SEND_OBJECT, b"x"))[0] == Response.OK
        name = packing.text("other")
        set_name = (Operation.SET_OBJECT_PROP_VALUE, name, handle, Property.FILE_NAME)
        assert (await host.gives(*set_name))[0] == Response.OK
        assert (folder / "other" / "a").read_bytes() == b"x"
        assert await host.code(Operation.DELETE_OBJECT, handle) == Response.OK
        assert not (folder / "other").exists()
        assert await host.code(Operation.DELETE_OBJECT, handle) == Response.INVALID_HANDLE


BAD_NAMES = ["", ".", "..", "../out", "a/b", "a\\b", "x\0y", "\ud800", "n" * 254 + "ö", ".usbferry-part-1"]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_names_are_no_paths(folder, name):
    raw = packing.info(0, Format.UNDEFINED, 0, 1, 0, False, "", 0.0)
    words = name.encode("utf-16-le", "surrogatepass")
    raw = raw[:52] + bytes((len(name) + 1 & 0xFF,)) + words + b"\0\0" if name else raw
    before = sorted(folder.parent.rglob("*"))
    async with opened(Mtp(folder=folder, write=True)) as device:
        host = await Host(device).start()
        assert (await host.gives(Operation.SEND_OBJECT_INFO, raw, 0, ROOT))[0] == Response.INVALID_DATASET
        assert (await host.gives(Operation.SEND_OBJECT, b"x"))[0] == Response.NO_VALID_OBJECT_INFO
    assert sorted(folder.parent.rglob("*")) == before


@given(st.text(max_size=300))
def test_a_name_that_is_allowed_stays_in_its_folder(name):
    if is_name(name):
        assert Path("/folder", name).parent == Path("/folder")
        assert name not in ("", ".", "..")


async def test_folders_in_folders_have_an_end(folder):
    async with opened(Mtp(folder=folder, write=True)) as device:
        host = await Host(device).start()
        info = announced("deeper", 0, Format.FOLDER)
        parent, count = ROOT, 0
        while (made := await host.gives(Operation.SEND_OBJECT_INFO, info, 0, parent))[0] == Response.OK:
            parent, count = made[1][2], count + 1
        assert (made[0], count) == (Response.INVALID_PARENT, 101)
        assert len(await host.handles(0)) == 3 + count


async def test_nothing_is_overwritten(folder):
    async with opened(Mtp(folder=folder, write=True)) as device:
        host = await Host(device).start()
        names = await host.names()
        for name in ("noise.bin", "link", "sub"):
            assert (await host.gives(Operation.SEND_OBJECT_INFO, announced(name, 1), 0, ROOT))[
                0
            ] == Response.ACCESS_DENIED
        name = packing.text("sub")
        refused = await host.gives(Operation.SET_OBJECT_PROP_VALUE, name, names["noise.bin"], Property.FILE_NAME)
        assert refused[0] == Response.ACCESS_DENIED
        assert await host.code(Operation.DELETE_OBJECT, ROOT) == Response.ACCESS_DENIED
    assert (folder / "noise.bin").read_bytes() == CONTENT


async def test_a_folder_that_became_a_link_leads_nowhere(folder):
    async with opened(Mtp(folder=folder, write=True)) as device:
        host = await Host(device).start()
        handle = (await host.names())["sub"]
        [photo] = await host.handles(handle)
        (folder / "sub").rename(folder.parent / "moved")
        (folder / "sub").symlink_to(folder.parent / "moved")
        assert await host.code(Operation.GET_OBJECT, photo) == Response.INVALID_HANDLE
        assert await host.code(Operation.DELETE_OBJECT, photo) == Response.INVALID_HANDLE
        sent = await host.gives(Operation.SEND_OBJECT_INFO, announced("new", 1), 0, handle)
        assert sent[0] == Response.INVALID_PARENT


@pytest.mark.parametrize(("said", "given"), [(5, b"four"), (5, b"longer"), (5, b"")])
async def test_what_is_not_as_long_as_it_was_said_does_not_stay(folder, said, given):
    async with opened(Mtp(folder=folder, write=True)) as device:
        host = await Host(device).start()
        await host.gives(Operation.SEND_OBJECT_INFO, announced("new", said), 0, ROOT)
        assert (await host.gives(Operation.SEND_OBJECT, given))[0] == Response.INCOMPLETE
        assert sorted(os.listdir(folder)) == ["link", "noise.bin", "sub"]


async def test_there_is_no_room(folder, monkeypatch):
    async with opened(Mtp(folder=folder, write=True)) as device:
        host = await Host(device).start()
        monkeypatch.setattr(device.store, "room", lambda: (100, 10))
        assert (await host.gives(Operation.SEND_OBJECT_INFO, announced("new", 11), 0, ROOT))[0] == Response.STORE_FULL


async def test_a_disk_that_fills_up(folder, monkeypatch):
    def full(part: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    async with opened(Mtp(folder=folder, write=True)) as device:
        host = await Host(device).start()
        await host.gives(Operation.SEND_OBJECT_INFO, announced("new", 5), 0, ROOT)
        monkeypatch.setattr(device.store, "append", full)
        assert (await host.gives(Operation.SEND_OBJECT, b"bytes"))[0] == Response.STORE_FULL
        assert sorted(os.listdir(folder)) == ["link", "noise.bin", "sub"]


async def cancel(device: Mtp, transaction: int) -> int:
    answer: Any = ask(
        device, Setup(0x21, 0x64, 0, 0, 6), (0x4001).to_bytes(2, "little") + transaction.to_bytes(4, "little")
    )
    for _ in range(1000):
        status: Any = ask(device, Setup(0xA1, 0x67, 0, 0, 4))
        if bytes(status.data) == bytes.fromhex("04000120"):
            break
        await asyncio.sleep(0.005)
    return int(answer.status)


@pytest.mark.parametrize("ending", ["cancel", "reset", "close"])
async def test_what_is_given_up_half_way_does_not_stay(folder, ending):
    device = Mtp(folder=folder, write=True)
    async with opened(device):
        host = await Host(device, 512).start()
        await host.gives(Operation.SEND_OBJECT_INFO, announced("new", 5000), 0, ROOT)
        await host.command(Operation.SEND_OBJECT)
        raw = header(Kind.DATA, Operation.SEND_OBJECT, host.transaction, 5000) + bytes(5000)
        assert await host.send(raw[:1024]) == Status.OK
        if ending == "cancel":
            assert await cancel(device, host.transaction) == Status.OK
            assert await host.code(Operation.GET_NUM_OBJECTS, ROOT, 0, ROOT) == Response.OK
        elif ending == "reset":
            await device.reset()
            await host.start()
    assert sorted(os.listdir(folder)) == ["link", "noise.bin", "sub"]


async def test_what_was_being_written_before_a_reset_begins_no_later_command(folder, monkeypatch):
    written = threading.Event()
    async with opened(Mtp(folder=folder, write=True)) as device:
        host = await Host(device).start()
        await host.gives(Operation.SEND_OBJECT_INFO, announced("new", 4), 0, ROOT)
        monkeypatch.setattr(device.store, "append", lambda part, data: written.wait(10))
        await host.command(Operation.SEND_OBJECT)
        device.submit(write(OUT, header(Kind.DATA, Operation.SEND_OBJECT, host.transaction, 4) + b"four"))
        await turn()
        await device.reset()
        await host.command(Operation.SEND_OBJECT_INFO, 0, ROOT)
        written.set()
        for _ in range(200):
            await asyncio.sleep(0.005)
            if not device._shielded:
                break
        info = announced("new", 4)
        data = header(Kind.DATA, Operation.SEND_OBJECT_INFO, host.transaction, len(info)) + info
        assert await host.send(data) == Status.OK
        assert (await host.answer())[0] == Response.SESSION_NOT_OPEN


def test_a_name_that_is_given_anew_is_not_what_was_called_so(folder):
    store = Store(folder)
    former = next(one.handle for one in store.inside(0) if one.name == "noise.bin")
    (folder / "noise.bin").unlink()
    (folder / "new").write_bytes(b"new")
    new = next(one.handle for one in store.inside(0) if one.name == "new")
    store.rename(new, "noise.bin")
    with pytest.raises(NoObject):
        store.delete(former)
    assert (folder / "noise.bin").read_bytes() == b"new"
    assert new in [one.handle for one in store.inside(0)]
    store.rename(new, "newer")
    assert (folder / "newer").exists()


async def test_long_lists_are_put_together_in_a_thread(folder, monkeypatch):
    threads = []

    def listed(*words: Any) -> bytes:
        threads.append(threading.current_thread())
        return bytes(4)

    monkeypatch.setattr("usbferry.devices.ptp.properties.listed", listed)
    async with opened(Mtp(folder=folder)) as device:
        host = await Host(device).start()
        assert await host.data(Operation.GET_OBJECT_PROP_LIST, ROOT, 0, ROOT, 0, 0) == bytes(4)
    assert threads != [threading.main_thread()]
    assert len(threads) == 1


async def test_a_device_of_its_own_folder():
    """Hosts write to it; it goes with the device."""
    device = Mtp()
    await device.plug()
    folder = device.store.folder
    async with opened(device):
        host = await Host(device).start()
        await host.gives(Operation.SEND_OBJECT_INFO, announced("new", 5), 0, ROOT)
        assert (await host.gives(Operation.SEND_OBJECT, b"bytes"))[0] == Response.OK
    assert (folder / "new").read_bytes() == b"bytes"
    await device.unplug()
    assert not folder.exists()


# -- changes -----------------------------------------------------------------------------------------------------------


async def test_hosts_are_told_of_what_comes_and_goes(folder):
    clock = VirtualClock()
    async with opened(Mtp(folder=folder, write=True, clock=clock)) as device:
        host = await Host(device).start()
        names = await host.names()
        await host.gives(Operation.SEND_OBJECT_INFO, announced("own", 1), 0, ROOT)
        await host.gives(Operation.SEND_OBJECT, b"x")
        (folder / "added").write_text("new")
        (folder / "noise.bin").unlink()
        told = []
        for _ in range(2):
            answer = device.submit(read(INTERRUPT, 28))
            for _ in range(2000):
                if answer.done():
                    break
                clock.advance(0.1)
                await asyncio.sleep(0.002)
            _, kind, code, _ = HEADER.unpack_from(bytes(answer.result().data))
            assert kind == Kind.EVENT
            told.append((code, unpack_from("<I", bytes(answer.result().data), 12)[0]))
        assert told == [(Event.OBJECT_ADDED, (await host.names())["added"]), (Event.OBJECT_REMOVED, names["noise.bin"])]


def test_a_folder_is_listed_again_when_it_has_changed(folder):
    store = Store(folder)
    os.utime(folder, (1_000_000, 1_000_000))
    stamp, before = store.look(0, 0)
    assert len(before) == 2
    assert store.look(0, stamp) == (stamp, None)
    (folder / "new").write_text("now")
    recent, after = store.look(0, stamp)
    assert (recent, len(after)) == (0, 3), "another change may come in the same moment"
    assert store.look(0, recent) == (0, after)


# -- anything ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"short",
        HEADER.pack(12, Kind.DATA, 0x1001, 1),
        HEADER.pack(100, Kind.COMMAND, 0x1001, 1) + bytes(88),
        HEADER.pack(11, Kind.COMMAND, 0x1001, 1),
        HEADER.pack(16, Kind.COMMAND, 0x1001, 1),
    ],
)
async def test_what_is_no_command_halts_the_endpoint(raw):
    async with opened(Mtp()) as device:
        host = Host(device)
        assert await host.send(raw) == Status.STALL
        device.set_halt(OUT, False)
        await host.start()


async def test_data_that_is_none_halts_the_endpoint():
    async with opened(Mtp()) as device:
        host = await Host(device).start()
        await host.command(Operation.SEND_OBJECT_INFO, 0, ROOT)
        assert await host.send(bytes(20)) == Status.STALL


async def test_a_data_set_without_end_is_not_kept():
    async with opened(Mtp()) as device:
        host = await Host(device).start()
        assert (await host.gives(Operation.SEND_OBJECT_INFO, bytes(1 << 20), 0, ROOT))[0] == Response.INCOMPLETE
        assert len(device._come) == 0


async def test_the_next_command_waits_for_the_answer_of_the_last():
    async with opened(Mtp()) as device:
        host = await Host(device).start()
        await host.command(Operation.GET_DEVICE_INFO)
        early = device.submit(write(OUT, container(Kind.COMMAND, Operation.GET_STORAGE_IDS, 9)))
        assert isinstance(early, asyncio.Future)
        assert (await host.answer())[0] == Response.OK
        await turn()
        assert early.done()


chunks = st.binary(max_size=60) | st.builds(
    lambda kind, code, values, more: container(Kind(kind), code, 1, *values) + more,
    st.integers(1, 3),
    st.sampled_from(tuple(Operation)) | st.integers(0, 0xFFFF),
    st.lists(st.sampled_from((0, 1, 2, 0xFFFFFFFF, STORAGE_ID, 0xDC07)), max_size=5),
    st.just(b"") | st.binary(max_size=80),
)


async def survives(sent: list[bytes]) -> None:
    async with opened(Mtp()) as device:
        for one in sent:
            host = Host(device)
            answer = device.submit(write(OUT, one))
            given = device.submit(read(IN, 4096))
            if device._task is not None:
                await asyncio.wait((device._task,))
            if isinstance(answer, Completion) and answer.status == Status.STALL:
                device.set_halt(OUT, False)
            if isinstance(given, asyncio.Future) and not given.done():
                await turn()
        await device.reset()
        host = await Host(device).start()
        assert await host.code(Operation.GET_STORAGE_IDS) == Response.OK


@given(st.lists(chunks, max_size=8))
def test_any_transfers_leave_it_usable(sent):
    asyncio.run(survives(sent))


@given(st.binary(max_size=300))
def test_any_object_info_is_read_or_refused(raw):
    try:
        sent = packing.sent(raw, Format.FOLDER)
    except packing.BadData:
        return
    assert len(sent.name) <= 255


@given(st.text(max_size=254).filter(lambda words: "\0" not in words))
def test_texts_come_back(words):
    raw = packing.text(words)
    assert len(raw) == 1 + 2 * raw[0]
    if len(words.encode("utf-16-le", "replace")) <= 508:
        assert packing.read_text(raw + b"more") == words


@pytest.mark.parametrize(
    ("options", "text"), [({"folder": "/nowhere"}, "/nowhere is no folder"), ({"speed": "low"}, "use full")]
)
def test_options_that_make_no_sense(options, text):
    with pytest.raises(ValueError, match=text):
        make("mtp", options)


def test_every_operation_that_writes_is_known():
    assert set(TAKES_DATA) < set(WRITES)
