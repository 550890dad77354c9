"""FAT file systems: made here, read here, and checked by other people's tools (dosfstools, mtools)."""

import os
import shutil
import struct
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.disk_host import Host
from tests.devices.host import opened
from usbferry.devices.disk import Disk
from usbferry.devices.storage import fat, fat_image, fat_names
from usbferry.devices.storage.fat import FatError
from usbferry.devices.storage.memory import Composed, Memory

MIB = 1 << 20
GIB = 1 << 30
ODD = {
    "README.TXT": b"short and plain\n",
    "readme.txt.bak": b"two dots",
    "empty": b"",
    "A long file name, with a comma; and more.text": b"x" * 5000,
    "ünïcødé 名前 🎉.txt": b"beyond ASCII",
    "folder": {"inner": {"deepest file.bin": bytes(range(256)) * 1000}, "sibling": b"s", "nothing": {}},
    "exactly13char": b"13",
    "n" * 255: b"as long as a name may be",
}


def flat(tree, prefix=""):
    found = {}
    for name, what in tree.items():
        found.update(flat(what, f"{prefix}{name}/") if isinstance(what, dict) else {prefix + name: what})
    return found


def backing(image):
    return Composed(image.size, image.extents)


def reader(disk, block=512):
    return lambda first, count: disk.read(first * block, count * block)


def read_back(disk, block=512):
    return fat.run(fat.read_tree(block=block), reader(disk, block))


def write_file(image, path):
    """The image as a sparse file."""
    with open(path, "wb") as file:
        file.truncate(image.size)
        for extent in image.extents:
            file.seek(extent.offset)
            file.write(extent.source if isinstance(extent.source, bytes) else extent.source.read_bytes())


def tool(name):
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is missing; Debian: apt-get install dosfstools mtools")
    return found


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- made and read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize(("size", "bits"), [(0, 16), (100 * MIB, 16), (600 * MIB, 32), (9 * GIB, 32), (100 * GIB, 32)])
def test_what_goes_in_comes_out(sector, size, bits):
    image = fat_image.make(ODD, size=size, sector=sector)
    assert image.bits == bits
    assert image.size == (size or image.size)
    assert read_back(backing(image), sector) == flat(ODD)


def test_files_of_a_folder_are_not_read_before_they_are_wanted(tmp_path):
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", 3 * GIB)
    (tmp_path / "small").write_bytes(b"small")
    image = fat_image.make(fat_image.scan(tmp_path))
    assert image.size > 3 * GIB
    assert sum(len(e.source) for e in image.extents if isinstance(e.source, bytes)) < 8 * MIB
    volume = fat.run(fat.open_volume(), reader(backing(image)))
    entries = {e.path: e for e in fat.run(volume.walk(), reader(backing(image)))}
    assert entries["big"].size == 3 * GIB
    assert fat.run(volume.read(entries["small"]), reader(backing(image))) == b"small"
    with pytest.raises(FatError, match="together, more than"):
        read_back(backing(image))


def test_a_folder_is_scanned_without_what_is_outside_of_it(tmp_path):
    (tmp_path / "outside").write_bytes(b"secret")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(b"content")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "circle").symlink_to(folder)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe")
    image = fat_image.make(fat_image.scan(folder))
    assert read_back(backing(image)) == {"sub/file": b"content"}


def test_times_are_kept(tmp_path):
    when = time.mktime((2021, 3, 4, 5, 6, 8, 0, 0, -1))
    (tmp_path / "file").write_bytes(b"x")
    os.utime(tmp_path / "file", (when, when))
    (tmp_path / "old").write_bytes(b"x")
    os.utime(tmp_path / "old", (0, 0))
    disk = backing(fat_image.make(fat_image.scan(tmp_path)))
    volume = fat.run(fat.open_volume(), reader(disk))
    entries = {e.path: e.modified for e in fat.run(volume.walk(), reader(disk))}
    assert entries == {"file": (2021, 3, 4, 5, 6, 8), "old": (1980, 1, 1, 0, 0, 0)}


def test_a_folder_of_thousands():
    tree = {"many": {f"a file with a long name, number {i}.txt": b"%d" % i for i in range(5000)}}
    assert read_back(backing(fat_image.make(tree))) == flat(tree)


def test_a_root_of_more_than_512_entries():
    tree = {f"a file with a long name, number {i}.txt": b"%d" % i for i in range(1000)}
    for size in (0, 600 * MIB):
        assert read_back(backing(fat_image.make(tree, size=size))) == tree


@pytest.mark.parametrize(
    ("tree", "options", "text"),
    [
        ({"a": bytes(20 * MIB)}, {"size": 18 * MIB}, "MiB more than there are"),
        ({}, {"size": MIB}, "too few for a FAT16"),
        ({}, {"size": 3 * MIB, "sector": 4096}, "too few for a FAT16"),
        ({}, {"size": 2 << 40}, "less than 2\\*\\*32 sectors"),
        ({"x" * 200 + str(i): b"" for i in range(5000)}, {}, "too many files for one folder"),
    ],
)
def test_what_cannot_be(tree, options, text):
    with pytest.raises(ValueError, match=text):
        fat_image.make(tree, **options)


def test_a_file_of_4_gib_is_too_large(tmp_path):
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 4 * GIB)
    with pytest.raises(ValueError, match="huge has 4294967296 bytes"):
        fat_image.make(fat_image.scan(tmp_path))
    os.truncate(tmp_path / "huge", 4 * GIB - 1)
    assert fat_image.make(fat_image.scan(tmp_path)).bits == 32


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)
TREES = st.recursive(
    st.binary(max_size=3000), lambda inner: st.dictionaries(NAMES, inner, max_size=6), max_leaves=15
).filter(lambda tree: isinstance(tree, dict))


@given(TREES)
def test_any_tree(tree):
    """Names may have to change, contents and their number do not."""
    back = read_back(backing(fat_image.make(tree)))
    assert sorted(back.values()) == sorted(flat(tree).values())


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("README.TXT", b"README  TXT"),
        ("FILE", b"FILE       "),
        ("readme.txt", b"README  TXT"),
        ("a.b.c", b"AB~1    C  "),
        ("long file name.text", b"LONGFI~1TEX"),
        (".profile", b"PROFIL~1   "),
        ("ünï.x", b"_N_~1   X  "),
        ("a+b.txt", b"A_B~1   TXT"),
        ("12345678.123", b"12345678123"),
        ("123456789.123", b"123456~1123"),
        ("file.1234", b"FILE~1  123"),
    ],
)
def test_short_names(name, short):
    assert fat_names.shorten(name, set()) == short


def test_short_names_differ_within_a_folder():
    taken = set()
    made = [fat_names.shorten(f"a long name {i}.txt", taken) for i in range(20_000)]
    assert len(set(made)) == 20_000
    assert made[0] == b"ALONGN~1TXT"
    assert all(len(short) == 11 and short[8:] == b"TXT" for short in made)
    assert fat_names.shorten("ALONGN~1.TXT", taken) != b"ALONGN~1TXT"


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ('what? "this": a*b|c<d>e\\f', "what_ _this__ a_b_c_d_e_f"),
        ("trailing. . ", "trailing"),
        ("...", "_"),
        ("tab\there", "tab_here"),
        ("\udc80 odd", "_ odd"),
        ("x" * 300 + ".txt", "x" * 251 + ".txt"),
        ("🎉" * 200, "🎉" * 127),
    ],
)
def test_names_that_fat_cannot_keep(name, clean):
    assert fat_names.clean(name, set()) == clean


def test_names_that_differ_in_case_alone():
    taken = set()
    assert [fat_names.clean(n, taken) for n in ("File.txt", "FILE.TXT", "file.txt")] == [
        "File.txt",
        "FILE (2).TXT",
        "file (3).txt",
    ]


def test_a_plain_short_name_needs_no_long_one():
    assert fat_names.long_entries("README.TXT", b"README  TXT") == b""
    assert fat_names.entry_count("README.TXT", b"README  TXT") == 1


@pytest.mark.parametrize(("name", "entries"), [("readme.txt", 1), ("x" * 13, 1), ("x" * 14, 2), ("x" * 255, 20)])
def test_long_entries(name, entries):
    short = fat_names.shorten(name, set())
    raw = fat_names.long_entries(name, short)
    assert len(raw) == 32 * entries
    assert raw[0] == 0x40 | entries
    assert fat_names.entry_count(name, short) == entries + 1


def entry(short, attributes=0x20, case=0):
    return fat_names.ENTRY.pack(short, attributes, case, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def names(raw):
    return [name for name, _ in fat_names.named(raw)]


def test_a_long_name_that_does_not_belong_is_ignored():
    good = fat_names.long_entries("a long file name.txt", b"ALONGF~1TXT")
    own = entry(b"ALONGF~1TXT")
    assert names(good + own) == ["a long file name.txt"]
    assert names(good + entry(b"OTHER   TXT")) == ["OTHER.TXT"]
    assert names(good[32:] + own) == ["ALONGF~1.TXT"]
    assert names(good[:32] + own) == ["ALONGF~1.TXT"]
    assert names(good[:32] + good + own) == ["a long file name.txt"]
    assert names(good + entry(b"\xe5LD     TXT") + own) == ["ALONGF~1.TXT"]


def test_entries_that_are_no_files():
    raw = (
        entry(b"LABEL      ", 0x08)
        + entry(b".          ", 0x10)
        + entry(b"..         ", 0x10)
        + entry(b"\xe5ONE       ")
    )
    assert names(raw + entry(b"FILE       ") + bytes(32) + entry(b"BEYOND     ")) == ["FILE"]


def test_short_names_as_shown():
    assert names(entry(b"LOWER   TXT", case=0x18)) == ["lower.txt"]
    assert names(entry(b"BASE    TXT", case=0x08)) == ["base.TXT"]
    assert names(entry(b"\x05\x8aN     TXT")) == ["σèN.TXT"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "/", "a/b\\c"])
def test_names_on_a_disk_have_no_separators(name):
    units = (name.encode("utf-16-le") + b"\0\0").ljust(52, b"\xff")[:52]
    check = fat_names.checksum(b"X          ")
    raw = b""
    for order, part in ((0x42, units[26:]), (0x01, units[:26])):
        raw += fat_names.LONG.pack(order, part[:10], 0x0F, 0, check, part[10:22], 0, part[22:])
    (found,) = names(raw + entry(b"X          "))
    assert not set(found) & set("/\\")
    assert found not in ("", ".", "..")


@given(st.binary(max_size=600))
def test_any_bytes_are_a_directory(raw):
    for name, fields in fat_names.named(raw):
        assert name
        assert "/" not in name
        assert len(fields) == 11


# -- disks that lie -----------------------------------------------------------------------------------------------


@pytest.fixture(params=[0, 600 * MIB], ids=["FAT16", "FAT32"])
def disk(request):
    image = fat_image.make(ODD, size=request.param)
    made = Memory(image.size)
    for extent in image.extents:
        made.write(extent.offset, (extent.source,))
    return made


def boot(disk):
    return fat.run(fat.open_volume(), reader(disk))


def test_no_file_system():
    for content in (bytes(512), b"\x55" * 512, bytes(510) + b"\x55\xaa"):
        memory = Memory(MIB)
        memory.write(0, (content,))
        with pytest.raises(FatError, match="no FAT file system"):
            read_back(memory)


def test_a_chain_that_goes_in_a_circle(disk):
    volume = boot(disk)
    entry = next(e for e in fat.run(volume.walk(), reader(disk)) if e.path.endswith("deepest file.bin"))
    width = volume.bits // 8
    disk.write(volume._fat + (entry.cluster + 1) * width, (entry.cluster.to_bytes(width, "little"),))
    volume = boot(disk)
    assert len(fat.run(volume.read(entry), reader(disk))) == entry.size  # it ends with the file's size
    endless = fat.Entry("x", 1 << 40, False, entry.cluster, entry.modified)
    with pytest.raises(FatError, match="circle"):
        fat.run(volume.read(endless), reader(disk))


@pytest.mark.parametrize("value", [0, 1, 0xFFF0])
def test_a_chain_that_leaves_the_disk(disk, value):
    volume = boot(disk)
    entry = next(e for e in fat.run(volume.walk(), reader(disk)) if e.path.endswith("deepest file.bin"))
    width = volume.bits // 8
    value = value | 0x0FFF0000 if width == 4 and value > 1 else value
    disk.write(volume._fat + entry.cluster * width, (value.to_bytes(width, "little"),))
    with pytest.raises(FatError, match="chain goes to cluster"):
        read_back(disk)


def test_a_file_longer_than_its_chain(disk):
    volume = boot(disk)
    entry = next(e for e in fat.run(volume.walk(), reader(disk)) if e.path == "README.TXT")
    longer = fat.Entry("README.TXT", 10 * MIB, False, entry.cluster, entry.modified)
    with pytest.raises(FatError, match="are not there"):
        fat.run(volume.read(longer), reader(disk))


def test_a_folder_that_holds_itself(disk):
    volume = boot(disk)
    found = {e.path: e for e in fat.run(volume.walk(), reader(disk))}
    outer, inner = found["folder"], found["folder/inner"]
    at = volume._data + (outer.cluster - 2) * volume.cluster
    raw = bytearray(disk.read(at, 512))
    place = next(
        i for i in range(0, 512, 32) if raw[i + 26 : i + 28] == struct.pack("<H", inner.cluster & 0xFFFF) and i
    )
    raw[place + 26 : place + 28] = struct.pack("<H", outer.cluster & 0xFFFF)
    disk.write(at, (bytes(raw),))
    with pytest.raises(FatError, match="also another one"):
        read_back(disk)


def test_sizes_that_do_not_fit():
    image = fat_image.make({})
    memory = Memory(image.size)
    memory.write(0, (bytes(backing(image).read(0, 512)),))
    memory.write(22, (b"\x01\x00",))  # one sector of FAT for all those clusters
    with pytest.raises(FatError, match="do not fit together"):
        read_back(memory)


def test_blocks_of_the_wrong_size():
    image = backing(fat_image.make(ODD))
    with pytest.raises(ValueError, match="of 512 bytes were wanted, 100 bytes came"):
        fat.run(fat.read_tree(), lambda first, count: image.read(first * 512, count * 512 if first == 0 else 100))


@given(st.binary(min_size=62, max_size=62), st.integers(0, 3))
def test_any_boot_sector_is_read_or_refused(raw, fill):
    sector = b"\xeb" + raw[1:11] + b"\0\2" + raw[13:62] + bytes([fill]) * 448 + b"\x55\xaa"
    memory = Memory(64 * MIB)
    memory.write(0, (sector,))
    try:
        volume = fat.run(fat.open_volume(), lambda first, count: sector if first == 0 else bytes(count * 512))
        fat.run(volume.entries(), lambda first, count: bytes([fill]) * (count * 512))
    except FatError:
        pass


# -- on the disk device ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    for path, content in flat(ODD).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


async def tree_of(host, block=512):
    """As `usbferry demo` reads it: the generator asks, the host's commands answer."""
    walk = fat.read_tree(block=block)
    wanted = next(walk)
    try:
        while True:
            first, count = wanted
            data = b""
            for at in range(first, first + count, 128):
                data += await host.read(at, min(128, first + count - at), block)
            wanted = walk.send(data)
    except StopIteration as finished:
        return finished.value


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("block", [512, 4096])
async def test_a_disk_serves_a_folder(folder, block, readonly):
    async with opened(Disk(files=folder, block=block, readonly=readonly)) as disk:
        assert await tree_of(Host(disk), block) == flat(ODD)


async def test_what_a_host_writes_stays_in_memory(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    disk = Disk(files=folder)
    async with opened(disk):
        host = Host(disk)
        await host.write(3000, b"\xab" * 5120)
        assert await host.read(2999, 1) != b"\xab" * 512
    async with opened(disk):
        assert await Host(disk).read(3000, 10) == b"\xab" * 5120
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    async with opened(Disk(files=folder, readonly=True)) as disk:
        host = Host(disk)
        assert (await host.command(bytes([0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0]), data=bytes(512))).status == 1


async def test_a_file_that_left_is_a_read_error_and_others_are_not(folder):
    disk = Disk(files=folder, readonly=True)
    (folder / "README.TXT").unlink()
    async with opened(disk):
        with pytest.raises(AssertionError):
            await tree_of(Host(disk))
        assert (await Host(disk).sense())[0] in (0x0, 0x3)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"nothing: No such file"):
        Disk(files=tmp_path / "nothing")
    with pytest.raises(ValueError, match="too few"):
        Disk(files=tmp_path, size=MIB)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="Not a directory"):
        Disk(files=tmp_path / "file")


def test_a_folder_on_a_disk_of_a_given_size(folder):
    disk = Disk(files=folder, size=40 * MIB)
    assert disk._storage.size == 40 * MIB


# -- other people's tools -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("size", [0, 100 * MIB, 600 * MIB, 40 * GIB])
def test_fsck_finds_nothing(tmp_path, sector, size):
    fsck = tool("fsck.fat")
    write_file(fat_image.make(ODD, size=size, sector=sector), tmp_path / "image")
    said = run(fsck, "-n", "-v", str(tmp_path / "image"))
    assert "dirty" not in said.lower()
    assert f"{len(flat(ODD)) + 4} files" in said  # three folders, and it counts the label


def test_mtools_read_it(tmp_path):
    mdir, mtype, mcopy = tool("mdir"), tool("mtype"), tool("mcopy")
    path = tmp_path / "image"
    write_file(fat_image.make(ODD, label="Label"), path)
    said = run(mdir, "-i", str(path), "::")
    assert "Volume in drive : is LABEL" in said
    assert "A long file name, with a comma; and more.text" in said
    assert run(mtype, "-i", str(path), "::/README.TXT") == "short and plain\n"
    run(mcopy, "-i", str(path), "-s", "::/folder", str(tmp_path / "copy"))
    copied = {p.relative_to(tmp_path / "copy").as_posix(): p.read_bytes() for p in (tmp_path / "copy").rglob("*.bin")}
    assert copied == {"inner/deepest file.bin": ODD["folder"]["inner"]["deepest file.bin"]}


@pytest.mark.parametrize(("bits", "size"), [(12, 2 * MIB), (16, 32 * MIB), (32, 64 * MIB)])
def test_what_mtools_wrote_is_read(tmp_path, bits, size):
    mkfs, mcopy, mmd = tool("mkfs.fat"), tool("mcopy"), tool("mmd")
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(size)
    run(mkfs, "-F", str(bits), str(path))
    contents = {"A long name.txt": b"hello", "lower.txt": b"NT case bits", "sub/ÄÖÜ.dat": bytes(70_000)}
    run(mmd, "-i", str(path), "::/sub")
    for name, content in contents.items():
        (tmp_path / "one").write_bytes(content)
        run(mcopy, "-i", str(path), str(tmp_path / "one"), f"::/{name}")
    raw = path.read_bytes()
    found = fat.run(fat.read_tree(), lambda first, count: raw[first * 512 : (first + count) * 512])
    assert found == contents


def test_the_partition_of_a_disk(tmp_path, folder):
    mdir = tool("mdir")
    image = fat_image.make(fat_image.scan(folder), hidden=2048)
    size, extents = fat_image.partitioned(image)
    whole = Composed(size, extents)
    assert read_back(whole) == flat(ODD)
    record = bytes(whole.read(0, 512))
    assert struct.unpack_from("<B3xB3xII", record, 446) == (0, 0x0E, 2048, image.size // 512)
    assert (record[462:510], record[510:], record[440:444] != bytes(4)) == (bytes(48), b"\x55\xaa", True)
    (tmp_path / "disk").write_bytes(whole.read(0, size))
    assert "README   TXT" in run(mdir, "-i", f"{tmp_path / 'disk'}@@1M", "::")
