"""What disks keep their bytes in: image files with holes, memory, extents; and the thread that may wait for them."""

import asyncio
import errno
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.disk_host import Host, cdb16
from tests.devices.host import opened, turn
from usbferry.backends.virtual import make
from usbferry.device import Busy, DeviceError
from usbferry.devices.disk import Disk
from usbferry.devices.storage import image as image_module
from usbferry.devices.storage.bulk_only import Backing, Storage, Stream
from usbferry.devices.storage.image import Image
from usbferry.devices.storage.memory import Composed, Extent, Memory

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
HAS_HOLES = pytest.mark.skipif(sys.platform != "linux", reason="holes are punched on Linux alone")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "disk.img"


def used(path):
    """Bytes that a file takes on its disk."""
    return path.stat().st_blocks * 512


# -- image files: making and opening --------------------------------------------------------------------------------


def test_an_image_is_made_with_its_size_and_takes_no_room(path):
    assert Image(path, size=64 * MIB).size == 64 * MIB
    assert path.stat().st_size == 64 * MIB
    assert used(path) < MIB


def test_an_image_that_is_there_is_taken_as_it_is(path):
    path.write_bytes(b"\x55" * 4096)
    assert Image(path).size == 4096
    assert Image(path, size=4096).size == 4096


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "does not exist; give a size, such as size=64M"),
        ({"readonly": True}, "does not exist$"),
        ({"readonly": True, "size": MIB}, "does not exist$"),
    ],
)
def test_an_image_that_is_missing(path, options, text):
    with pytest.raises(DeviceError, match=text):
        Image(path, **options)
    assert not path.exists()


def test_an_image_of_another_size_is_not_resized(path):
    path.write_bytes(bytes(4096))
    with pytest.raises(DeviceError, match="has 4096 bytes, not 8192"):
        Image(path, size=8192)
    assert path.stat().st_size == 4096


def test_images_that_are_none(path, tmp_path):
    path.touch()
    with pytest.raises(DeviceError, match="is empty"):
        Image(path)
    with pytest.raises(DeviceError, match=r"directory|neither"):
        Image(tmp_path)
    with pytest.raises(DeviceError, match="neither a file nor a block device"):
        Image(tmp_path, readonly=True)
    with pytest.raises(DeviceError, match="cannot be made with 512 bytes"):
        Image(tmp_path / "no" / "such" / "folder", size=512)


def test_an_image_where_this_user_may_make_no_file(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DeviceError, match="this user may make no file there; name another folder"):
        Image(tmp_path / "x.img", size=512)


@pytest.mark.parametrize(
    ("readonly", "readable", "text"),
    [
        (False, True, "perhaps readonly=1 is what you want"),
        (False, False, "let this user read and write it, or run this as root"),
        (True, False, "let this user read it, or run this as root"),
    ],
)
def test_an_image_that_may_not_be_opened(path, monkeypatch, readonly, readable, text):
    path.write_bytes(bytes(4096))

    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: readable)
    with pytest.raises(DeviceError, match=rf"may not be opened \(Permission denied\); {text}$"):
        Image(path, readonly=readonly)


def test_an_image_whose_size_is_no_whole_number_of_blocks(path):
    path.write_bytes(bytes(4096 + 512))
    assert Disk(image=path).info
    with pytest.raises(ValueError, match="4608 bytes are no whole number of 4096-byte blocks"):
        Disk(image=path, block=4096)


def test_the_same_texts_reach_the_user_of_an_address(path):
    with pytest.raises(ValueError, match=r"^disk: .*disk.img does not exist; give a size"):
        make("disk", {"image": str(path)})
    with pytest.raises(ValueError, match="size 1000 is no whole number of 512-byte blocks"):
        make("disk", {"size": "1000"})
    device = make("disk", {"image": str(path), "size": "1M", "readonly": "no", "block": "4096", "speed": "super"})
    assert device.info.speed.name == "SUPER"


# -- image files: locks ---------------------------------------------------------------------------------------------

LOCKS = pytest.mark.skipif(image_module.fcntl is None, reason="this system has no advisory locks")


@LOCKS
def test_a_writer_excludes_everybody_and_readers_do_not_exclude_each_other(path):
    path.write_bytes(bytes(4096))
    writer, other, reader, second = Image(path), Image(path), Image(path, readonly=True), Image(path, readonly=True)
    writer.open()
    for late in (other, reader):
        with pytest.raises(Busy, match="is in use by another process or disk"):
            late.open()
    with pytest.raises(Busy):
        Image(path)  # told as soon as the disk is made
    writer.close()
    reader.open()
    second.open()
    with pytest.raises(Busy):
        writer.open()
    for image in (reader, second):
        image.close()
    writer.open()
    writer.close()


@LOCKS
@pytest.mark.parametrize(("number", "refused"), [(errno.ENOLCK, False), (errno.EIO, True)])
def test_a_file_system_without_locks(path, monkeypatch, number, refused):
    path.write_bytes(bytes(4096))

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(image_module.fcntl, "flock", fail)
    if refused:
        with pytest.raises(DeviceError, match="cannot be locked: Input/output error"):
            Image(path)
    else:
        assert Image(path).size == 4096


@LOCKS
def test_an_image_that_another_process_holds(path):
    path.write_bytes(bytes(4096))
    held = "import fcntl, sys; f = open(sys.argv[1], 'rb+'); fcntl.flock(f, 2); print('held', flush=True); input()"
    command = [sys.executable, "-c", held, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Busy, match="in use"):
            Image(path)
        other.communicate("\n")
    assert Image(path).size == 4096


async def test_an_image_is_held_only_while_its_disk_is_claimed(path):
    one, other = Disk(image=path, size=MIB), Disk(image=path)
    async with opened(one):
        with pytest.raises(Busy):
            await other.open()
        assert not other.is_open
    async with opened(other):
        pass


async def test_an_image_that_became_another_is_not_served(path):
    disk = Disk(image=path, size=MIB)
    os.truncate(path, 2 * MIB)
    with pytest.raises(DeviceError, match="had 1048576 bytes and now has 2097152"):
        await disk.open()


# -- image files: bytes ---------------------------------------------------------------------------------------------


@pytest.fixture
def image(path):
    made = Image(path, size=4 * MIB)
    made.open()
    yield made
    made.close()


def test_bytes_are_where_they_were_put(image, path):
    image.write(1000, (b"a" * 10, b"", b"b" * 5000, b"c"))
    assert bytes(image.read(999, 5013)) == b"\0" + b"a" * 10 + b"b" * 5000 + b"c\0"
    with path.open("rb") as file:
        file.seek(1000)
        assert file.read(5011) == b"a" * 10 + b"b" * 5000 + b"c"


def test_writes_are_finished_when_the_system_takes_less_at_a_time(image, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda fd, pieces, offset: real(fd, pieces[0][:3], offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:7], offset))
    image.write(100, (b"0123456789", b"abcdefghijklmnop"))
    assert bytes(image.read(100, 26)) == b"0123456789abcdefghijklmnop"


def test_more_pieces_than_a_system_call_takes(image):
    image.write(0, [bytes([i % 251]) for i in range(3000)])
    assert bytes(image.read(0, 3000)) == bytes(i % 251 for i in range(3000))


def test_without_positioned_calls(image, monkeypatch):
    """As on Windows."""
    for name in ("preadv", "pwritev", "pwrite"):
        monkeypatch.delattr(os, name)
    image.write(5000, (b"x" * 3000, b"y" * 3000))
    assert bytes(image.read(4999, 6002)) == b"\0" + b"x" * 3000 + b"y" * 3000 + b"\0"


def test_a_file_that_ends_too_early_is_an_error(image, path):
    os.truncate(path, MIB)
    with pytest.raises(OSError, match="ends before the disk does"):
        image.read(MIB - 512, 1024)


def test_peek_gives_what_is_cached_or_nothing(image):
    image.write(0, (b"z" * 4096,))
    assert image.peek(0, 4096) in (None, b"z" * 4096)
    image._can_peek = False
    assert image.peek(0, 4096) is None


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EIO])
def test_peek_that_is_refused(image, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", refuse, raising=False)
    assert image.peek(0, 512) is None
    assert image._can_peek is (number != errno.EOPNOTSUPP and image_module._NOWAIT is not None)


# -- holes ----------------------------------------------------------------------------------------------------------


@HAS_HOLES
def test_holes_stay_and_zeros_become_some(image, path):
    image.write(MIB, (b"\xff" * MIB,))
    full = used(path)
    assert MIB <= full < 2 * MIB
    image.write(2 * MIB, (bytes(MIB),))
    assert used(path) == full
    image.write(MIB, (bytes(MIB // 2), bytes(MIB // 2)))
    assert used(path) < full - MIB // 2
    assert path.stat().st_size == 4 * MIB
    assert bytes(image.read(MIB, MIB)) == bytes(MIB)


@HAS_HOLES
def test_zero_makes_holes_of_any_range(image, path):
    image.write(0, (b"\xff" * 65536,))
    image.zero(100, 60000)
    expected = b"\xff" * 100 + bytes(60000) + b"\xff" * 5436
    assert bytes(image.read(0, 65536)) == expected
    image.zero(0, 0)
    assert bytes(image.read(0, 65536)) == expected
    assert used(path) <= 12 * KIB


@pytest.mark.parametrize("number", [None, errno.EOPNOTSUPP])
def test_where_there_are_no_holes_zeros_are_written(image, monkeypatch, number):
    if number is None:
        monkeypatch.setattr(image_module, "_fallocate", None)
    else:
        monkeypatch.setattr(image_module, "_fallocate", lambda *arguments: -1)
        monkeypatch.setattr(image_module.ctypes, "get_errno", lambda: number)
    image.write(0, (b"\xff" * 3 * MIB,))
    image.zero(4096, 2 * MIB + 5)
    assert bytes(image.read(4096, 2 * MIB + 6)) == bytes(2 * MIB + 5) + b"\xff"
    image.write(3 * MIB, (bytes(8192),))
    assert bytes(image.read(0, 4096)) == b"\xff" * 4096


@HAS_HOLES
def test_a_hole_that_cannot_be_made_is_an_error(image, monkeypatch):
    monkeypatch.setattr(image_module, "_fallocate", lambda *arguments: -1)
    monkeypatch.setattr(image_module.ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        image.zero(0, 4096)


@HAS_HOLES
async def test_unmap_by_a_host_gives_room_back(path):
    async with opened(Disk(image=path, size=16 * MIB)) as disk:
        host = Host(disk)
        await host.write(0, b"\xaa" * (4 * MIB))
        assert used(path) >= 4 * MIB
        assert (await host.command(cdb16(0x93, 0, 8192, 0x09))).status == 0  # WRITE SAME(16), UNMAP and NDOB
        assert used(path) < MIB
        assert await host.read(0, 8) == bytes(4096)


async def test_a_disk_past_2_tib(path):
    """A hole of 3 TiB, where the file system allows one."""
    try:
        disk = Disk(image=path, size=3 * TIB)
    except DeviceError as error:
        pytest.skip(str(error))
    last = 3 * TIB // 512 - 1
    async with opened(disk):
        host = Host(disk)
        assert (await host.command(bytes([0x25]) + bytes(9), 8)).data[:4] == b"\xff" * 4
        assert (await host.command(cdb16(0x8A, last, 1), data=b"\x5a" * 512)).status == 0
        assert (await host.command(cdb16(0x8A, 1 << 32, 1), data=b"\xa5" * 512)).status == 0
        assert (await host.command(cdb16(0x88, last, 1), 512)).data == b"\x5a" * 512
        assert (await host.command(cdb16(0x88, (1 << 32) - 1, 3), 1536)).data == bytes(512) + b"\xa5" * 512 + bytes(512)
        assert (await host.command(cdb16(0x88, last, 2), 1024)).status == 1
        assert await host.read(0, 1) == bytes(512)
    with path.open("rb") as file:
        file.seek(-512, os.SEEK_END)
        assert file.read() == b"\x5a" * 512
    assert used(path) < MIB


# -- read-only ------------------------------------------------------------------------------------------------------


async def test_a_read_only_image_is_not_touched(path):
    path.write_bytes(b"\x42" * MIB)
    before = path.stat()
    async with opened(Disk(image=path, readonly=True)) as disk:
        host = Host(disk)
        assert await host.read(7, 1) == b"\x42" * 512
        assert (await host.command(cdb16(0x8A, 0, 1), data=bytes(512))).status == 1
        assert await host.sense() == (0x7, 0x27, 0x00)
        assert (await host.command(bytes([0x35]) + bytes(9))).status == 0
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


# -- when writes reach the medium -----------------------------------------------------------------------------------


async def test_writes_are_on_stable_storage_after_synchronize_cache_and_after_close(path, monkeypatch):
    synced = []
    monkeypatch.setattr(image_module, "_sync", lambda fd: synced.append(os.pread(fd, 512, 0)))
    async with opened(Disk(image=path, size=MIB)) as disk:
        host = Host(disk)
        await host.write(0, b"\x01" * 512)
        assert synced == []
        assert (await host.command(bytes([0x35]) + bytes(9))).status == 0
        assert synced == [b"\x01" * 512]
        await host.write(0, b"\x02" * 512)
    assert synced == [b"\x01" * 512, b"\x02" * 512]
    assert path.read_bytes()[:512] == b"\x02" * 512


async def test_a_close_that_cannot_sync_says_so(path, monkeypatch):
    disk = Disk(image=path, size=MIB)
    await disk.open()
    await Host(disk).write(0, bytes(512))

    def fail(fd):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(image_module, "_sync", fail)
    with pytest.raises(OSError, match="Input/output"):
        await disk.close()
    monkeypatch.undo()
    async with opened(disk):
        pass


async def test_an_idle_disk_has_no_thread(path):
    async with opened(Disk(image=path, size=MIB)), opened(Disk(size=MIB)) as memory:
        await Host(memory).write(0, bytes(MIB))
        assert not [t for t in threading.enumerate() if t.name.startswith("usbferry-disk")]


async def test_no_thread_outlives_a_claim(path):
    before = set(threading.enumerate())
    disk = Disk(image=path, size=MIB)
    for _ in range(3):
        async with opened(disk):
            await Host(disk).write(0, bytes(512))
        await asyncio.to_thread(lambda: None)
    named = [t for t in threading.enumerate() if t.name.startswith("usbferry-disk")]
    for thread in named:
        thread.join(5)
    assert not [t for t in set(threading.enumerate()) - before if not t.name.startswith("asyncio_")]  # to_thread's


# -- memory ---------------------------------------------------------------------------------------------------------


def test_memory_holds_only_what_is_not_zero():
    memory = Memory(1 << 50)
    memory.write((1 << 50) - 10, (b"0123456789",))
    memory.write(0, (bytes(8 * MIB),))
    assert len(memory._chunks) == 1
    assert bytes(memory.read((1 << 50) - 12, 12)) == b"\0\x000123456789"
    memory.zero((1 << 50) - 65536, 65536)
    assert not memory._chunks


def test_what_was_read_from_memory_does_not_change_with_a_later_write():
    """A view of it may still wait to be sent."""
    memory = Memory(MIB)
    memory.write(0, (b"old" * 1000,))
    held = memory.read(0, 3000)
    memory.write(0, (b"new" * 1000,))
    assert (bytes(held), bytes(memory.read(0, 3000))) == (b"old" * 1000, b"new" * 1000)
    memory.zero(0, 10)
    assert bytes(held) == b"old" * 1000
    held = memory.read(65536, 1000)
    memory.write(65536, (b"new" * 1000,))
    assert bytes(held) == bytes(1000)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "zero"]), st.integers(0, 300_000), st.integers(0, 150_000), st.integers(0, 255)
    ),
    max_size=12,
)


@given(OPERATIONS, st.booleans())
def test_memory_is_like_a_plain_buffer(operations, over):
    size = 450_000
    base = Composed(size, [Extent(70_000, 100_000, b"base" * 25_000)]) if over else None
    memory, plain = Memory(size, base), bytearray(size)
    if over:
        plain[70_000:170_000] = b"base" * 25_000
    for what, offset, length, value in operations:
        if what == "write":
            memory.write(offset, (bytes([value]) * length,))
            plain[offset : offset + length] = bytes([value]) * length
        else:
            memory.zero(offset, length)
            plain[offset : offset + length] = bytes(length)
        assert bytes(memory.read(offset, length)) == plain[offset : offset + length]
    assert bytes(memory.read(0, size)) == plain
    assert memory.peek(0, size) in (None, plain)


# -- extents --------------------------------------------------------------------------------------------------------


@pytest.fixture
def composed(tmp_path):
    (tmp_path / "a").write_bytes(b"A" * 1000)
    (tmp_path / "b").write_bytes(b"B" * 5000)
    extents = [Extent(512, 5, b"hello"), Extent(8192, 5000, tmp_path / "b"), Extent(4096, 1000, tmp_path / "a")]
    made = Composed(20_000, [*extents, Extent(16384, 0, b"")])
    yield made
    made.close()


def test_extents_with_zeros_between(composed):
    whole = bytearray(20_000)
    whole[512:517], whole[4096:5096], whole[8192:13192] = b"hello", b"A" * 1000, b"B" * 5000
    assert bytes(composed.read(0, 20_000)) == whole
    for offset, length in ((513, 2), (500, 20), (5000, 4000), (13000, 500), (19_999, 1), (0, 0), (4096, 1000)):
        assert bytes(composed.read(offset, length)) == whole[offset : offset + length]


def test_files_are_peeked_at_once_they_are_open(composed):
    assert bytes(composed.peek(500, 20)) == bytes(12) + b"hello" + bytes(3)
    assert composed.peek(4096, 10) is None
    composed.read(4096, 1)
    assert composed.peek(4096, 10) in (None, b"A" * 10)
    with composed._lock:
        assert composed.peek(512, 5) is None


def test_memory_over_files_that_are_not_open_yet(composed):
    memory = Memory(20_000, composed)
    memory.zero(0, 100)
    assert memory.peek(4000, 200) is not None  # written to, so it is here as a whole
    other = Memory(1 << 20, Composed(1 << 20, [Extent(200_000, 1000, composed._extents[1].source)]))
    other.write(0, (b"x",))
    assert other.peek(199_990, 20) is None
    assert bytes(other.read(199_990, 20)) == bytes(10) + b"A" * 10
    assert other.peek(199_990, 20) in (None, bytes(10) + b"A" * 10)
    other.close()


def test_a_file_that_cannot_be_peeked_at(composed, monkeypatch):
    composed.read(4096, 1)

    def refuse(*arguments):
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", refuse, raising=False)
    assert composed.peek(4096, 10) is None


def test_only_so_many_files_are_open_at_one_time(tmp_path):
    extents = []
    for number in range(100):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 10)
        extents.append(Extent(number * 512, 10, tmp_path / str(number)))
    composed = Composed(100 * 512, extents)
    whole = composed.read(0, 100 * 512)
    assert [whole[n * 512] for n in range(100)] == list(range(100))
    assert len(composed._files) == 64
    composed.close()
    assert not composed._files


def test_a_file_that_shrank_or_left_is_an_error(composed, tmp_path):
    os.truncate(tmp_path / "a", 10)
    with pytest.raises(OSError, match="ends before"):
        composed.read(4096, 1000)
    assert bytes(composed.read(8192, 5)) == b"BBBBB"
    composed.close()
    (tmp_path / "b").unlink()
    with pytest.raises(FileNotFoundError):
        composed.read(8192, 5)


def test_extents_are_not_written(composed):
    for change in (lambda: composed.write(0, (b"x",)), lambda: composed.zero(0, 1)):
        with pytest.raises(PermissionError):
            change()


# -- the thread -----------------------------------------------------------------------------------------------------


class Recorder(Backing):
    """Remembers what was asked of it; each byte is the number of its MiB. Reads and writes wait for the gate."""

    readonly = False

    def __init__(self, size=64 * MIB, cached=()):
        self.size = size
        self.cached = cached
        self.log = []
        self.gate = threading.Event()
        self.gate.set()
        self.error = None

    def peek(self, offset, length):
        return bytes(length) if offset in self.cached else None

    def read(self, offset, length):
        self.log.append(("read", offset, length))
        assert self.gate.wait(5)
        if self.error:
            raise self.error
        first, last = offset >> 20, (offset + length) >> 20
        return b"".join(bytes([n]) * MIB for n in range(first, last + 1))[offset % MIB :][:length]

    def write(self, offset, pieces):
        assert self.gate.wait(5)
        self.log.append(("write", offset, sum(map(len, pieces))))

    def zero(self, offset, length):
        self.log.append(("zero", offset, length))

    def sync(self):
        self.log.append(("sync",))


@pytest.fixture
async def recorder():
    return Recorder()


@pytest.fixture
async def storage(recorder):
    made = Storage(recorder)
    await made.open()
    yield made
    recorder.gate.set()
    await made.close()


async def test_what_is_at_hand_is_answered_at_once(storage, recorder):
    recorder.cached = {0}
    assert storage.read(0, 512) == bytes(512)
    assert storage.peek(0, 512) == bytes(512)
    assert storage.peek(512, 512) is None
    assert recorder.log == []


async def test_changes_under_way_are_not_overtaken(storage, recorder):
    recorder.cached = {0}
    recorder.gate.clear()
    write = storage.write(0, [b"x" * 512])
    assert storage.peek(0, 512) is None
    read = storage.read(0, 512)
    assert isinstance(read, asyncio.Future)
    recorder.gate.set()
    await asyncio.gather(write, read)
    assert [entry[0] for entry in recorder.log] == ["write", "read"]
    assert storage.peek(0, 512) == bytes(512)


async def test_everything_goes_in_order(storage, recorder):
    await asyncio.gather(
        storage.write(0, [b"a" * 512, b"b" * 512]),
        storage.zero(4096, 512),
        storage.fill(0, 2048, b"ab"),
        storage.sync(),
    )
    assert recorder.log == [("write", 0, 1024), ("zero", 4096, 512), ("write", 0, 2048), ("sync",)]


async def test_a_long_fill_is_written_in_pieces(storage, recorder):
    await storage.fill(512, 3 * MIB + 512, b"x" * 512)
    assert recorder.log == [("write", 512 + i * MIB, MIB) for i in range(3)] + [("write", 512 + 3 * MIB, 512)]


async def test_compare(storage):
    assert await storage.compare(0, [bytes(512), bytes(512)])
    assert not await storage.compare(MIB, [bytes(512)])


async def test_reads_that_follow_each_other_are_fetched_ahead(storage, recorder):
    await storage.read(0, MIB)
    assert recorder.log == [("read", 0, MIB)]
    recorder.gate.clear()
    second = storage.read(MIB, MIB)
    third = storage.read(2 * MIB, MIB)  # under way already: nothing new is asked for but what comes after it
    recorder.gate.set()
    assert [await second, await third] == [b"\x01" * MIB, b"\x02" * MIB]
    assert await storage.compare(0, [b""])  # behind the fetch
    assert recorder.log == [("read", i * MIB, MIB) for i in range(4)] + [("read", 0, 0)]
    assert storage.read(3 * MIB, MIB) == b"\x03" * MIB  # it has come meanwhile


async def test_reads_here_and_there_are_not(storage, recorder):
    for offset in (0, 8 * MIB, 4 * MIB, 0):
        await storage.read(offset, 4096)
    assert [entry[1] for entry in recorder.log] == [0, 8 * MIB, 4 * MIB, 0]


async def test_nothing_is_fetched_past_the_end(storage, recorder):
    recorder.size = 2 * MIB
    await storage.read(0, MIB)
    await storage.read(MIB, MIB)
    assert len(recorder.log) == 2


async def test_what_was_fetched_ahead_is_dropped_at_a_change(storage, recorder):
    await storage.read(0, MIB)
    await storage.read(MIB, MIB)
    await storage.write(2 * MIB, [b"x" * 512])
    del recorder.log[:]
    await storage.read(2 * MIB, MIB)
    assert ("read", 2 * MIB, MIB) in recorder.log


async def test_a_fetch_ahead_that_failed_is_tried_again(storage, recorder):
    await storage.read(0, MIB)
    recorder.gate.clear()
    second = storage.read(MIB, MIB)
    recorder.gate.set()
    await second
    recorder.error = OSError(errno.EIO, "bad sector")
    storage._read_ahead(2 * MIB, MIB)
    await storage.sync()  # behind it
    storage._next = 2 * MIB
    recorder.error = None
    storage._ahead = storage._ahead or (2 * MIB, MIB, failed())
    answer = storage.read(2 * MIB, MIB)
    assert (await answer if isinstance(answer, asyncio.Future) else answer) == b"\x02" * MIB


def failed():
    future = asyncio.get_running_loop().create_future()
    future.set_exception(OSError(errno.EIO, "bad sector"))
    future.exception()
    return future


async def test_errors_come_out(storage, recorder):
    recorder.error = OSError(errno.EIO, "bad sector")
    with pytest.raises(OSError, match="bad sector"):
        await storage.read(0, 512)


async def test_a_storage_that_cannot_be_opened_leaves_nothing_behind(recorder, monkeypatch):
    def refuse():
        raise DeviceError("no")

    monkeypatch.setattr(recorder, "open", refuse)
    with pytest.raises(DeviceError):
        await Storage(recorder).open()


async def test_closing_twice(recorder):
    storage = Storage(recorder)
    await storage.open()
    await storage.close()
    await storage.close()


# -- streams --------------------------------------------------------------------------------------------------------


async def all_of(stream, ready, sizes):
    pieces = []
    for size in sizes:
        while (piece := stream.take(size)) is None:
            assert stream.error is None
            async with asyncio.timeout(5):
                await ready.wait()
            ready.clear()
        pieces.append(bytes(piece))
    return pieces


@pytest.mark.parametrize("size", [512, 65536, 100_000, MIB, 3 * MIB, 16 * MIB])
async def test_a_stream_gives_the_bytes_in_whatever_pieces(storage, size):
    ready = asyncio.Event()
    length = 8 * MIB
    stream = Stream(storage, MIB, length, ready.set)
    pieces = await all_of(stream, ready, [size] * -(-length // size))
    assert [len(p) for p in pieces[:-1]] == [min(size, length)] * (len(pieces) - 1)
    assert b"".join(pieces) == b"".join(bytes([1 + i]) * MIB for i in range(8))
    assert stream.left == 0


async def test_a_stream_is_ahead_by_one_window(storage, recorder):
    recorder.gate.clear()
    Stream(storage, 0, 64 * MIB, lambda: None)
    recorder.gate.set()
    await storage.sync()
    await turn()
    await storage.sync()
    assert sum(entry[2] for entry in recorder.log if entry[0] == "read") <= 2 * MIB


async def test_a_stream_without_waiting():
    memory = Memory(4 * MIB)
    memory.write(0, (b"q" * 4 * MIB,))
    storage = Storage(memory)
    stream = Stream(storage, 0, 4 * MIB, lambda: None)
    assert bytes(stream.take(0)) == b""
    assert bytes(stream.take(3 * MIB)) == b"q" * 3 * MIB
    assert bytes(stream.take(2 * MIB)) == b"q" * MIB


async def test_a_stream_that_fails_says_so_to_who_waits(storage, recorder):
    recorder.error = OSError(errno.EIO, "bad sector")
    ready = asyncio.Event()
    stream = Stream(storage, 0, MIB, ready.set)
    assert stream.take(512) is None
    async with asyncio.timeout(5):
        await ready.wait()
    assert stream.take(512) is None
    assert "bad sector" in str(stream.error)


async def test_a_stream_that_was_stopped_asks_for_no_more(storage, recorder):
    recorder.gate.clear()
    stream = Stream(storage, 0, 8 * MIB, lambda: None)
    stream.stop()
    recorder.gate.set()
    await storage.sync()
    await turn()
    await storage.sync()
    assert [entry for entry in recorder.log if entry[0] == "read"] == [("read", 0, MIB)]
