"""The kernel's ports through files: every form of the status file, who is quicker, and what each error tells."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.kernel import Kernel
from usbferry.device import Busy, DeviceError, NotFound
from usbferry.local import vhci
from usbferry.local.vhci import ERROR, FREE, NOT_ASSIGNED, USED, Port, Record, Vhci, parse_status
from usbferry.usb.types import Speed

# Written after the format strings of each release's vhci_sysfs.c, and of the later ones of its own series: the stable
# kernels got the descriptor in place of the kernel's address too (CVE-2017-16911), each in the form that it had.
LINUX_4_9 = """\
prt sta spd bus dev socket           local_busid
000 006 003 00010002 ffff88003b0a8c00 1-1
001 005 000 000 000 0000000000000000 0-0
002 004 000 000 000 0000000000000000 0-0
"""
LINUX_4_10 = """\
port sta spd dev      socket           local_busid
0000 006 002 0001000f         c5a7bb80 1-1
0001 004 000 00000000 0000000000000000 0-0
"""
LINUX_4_9_LATER = """\
port sta spd dev      sockfd local_busid
0000 006 003 00010002 000003 1-1
0001 004 000 00000000 000000 0-0
"""
LINUX_4_12_LATER = """\
port sta spd dev      socket           local_busid
0008 006 003 00010002 3 2-1
0009 004 000 00000000 0000000000000000 0-0
"""
LINUX_4_14_NOT_READY = """\
hub port sta spd dev      sockfd local_busid
hs  0016 005 000 00000000 0000000000000000 0-0
ss  0024 005 000 00000000 0000000000000000 0-0
"""
LINUX_4_13 = """\
hub port sta spd dev      socket           local_busid
hs  0000 006 003 00010002 ffff88003b0a8c00 1-1
hs  0001 004 000 00000000 0000000000000000 0-0
ss  0002 006 005 00020003 ffff88003b0a8d00 2-1
ss  0003 004 000 00000000 0000000000000000 0-0
"""
LINUX_6_1 = """\
hub port sta spd dev      sockfd local_busid
hs  0030 006 001 00010002 000003 3-1
hs  0031 007 000 00000000 000000 0-0
ss  0045 005 000 00000000 000000 0-0
"""


@pytest.fixture
def stream() -> Iterator[int]:
    ours, theirs = socket.socketpair()
    yield ours.fileno()
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            LINUX_4_9,
            [
                Port(0, "hs", USED, 3, 0x10002, "ffff88003b0a8c00", "1-1"),
                Port(1, "hs", NOT_ASSIGNED, 0, 0, "0000000000000000", ""),
                Port(2, "hs", FREE, 0, 0, "0000000000000000", ""),
            ],
            id="4.9",
        ),
        pytest.param(
            LINUX_4_10,
            [
                Port(0, "hs", USED, 2, 0x1000F, "c5a7bb80", "1-1"),
                Port(1, "hs", FREE, 0, 0, "0000000000000000", ""),
            ],
            id="4.10",
        ),
        pytest.param(
            LINUX_4_9_LATER,
            [Port(0, "hs", USED, 3, 0x10002, "000003", "1-1"), Port(1, "hs", FREE, 0, 0, "000000", "")],
            id="4.9-later",
        ),
        pytest.param(
            LINUX_4_12_LATER,
            [Port(8, "hs", USED, 3, 0x10002, "3", "2-1"), Port(9, "hs", FREE, 0, 0, "0000000000000000", "")],
            id="4.12-later",
        ),
        pytest.param(
            LINUX_4_14_NOT_READY,
            [
                Port(16, "hs", NOT_ASSIGNED, 0, 0, "0000000000000000", ""),
                Port(24, "ss", NOT_ASSIGNED, 0, 0, "0000000000000000", ""),
            ],
            id="4.14-not-ready",
        ),
        pytest.param(
            LINUX_4_13,
            [
                Port(0, "hs", USED, 3, 0x10002, "ffff88003b0a8c00", "1-1"),
                Port(1, "hs", FREE, 0, 0, "0000000000000000", ""),
                Port(2, "ss", USED, 5, 0x20003, "ffff88003b0a8d00", "2-1"),
                Port(3, "ss", FREE, 0, 0, "0000000000000000", ""),
            ],
            id="4.13",
        ),
        pytest.param(
            LINUX_6_1,
            [
                Port(30, "hs", USED, 1, 0x10002, "000003", "3-1"),
                Port(31, "hs", ERROR, 0, 0, "000000", ""),
                Port(45, "ss", NOT_ASSIGNED, 0, 0, "000000", ""),
            ],
            id="6.1",
        ),
    ],
)
def test_every_form_of_the_status_file_is_read(text, expected):
    assert parse_status(text) == expected


@pytest.mark.parametrize("row", ["hs", "xx  0000 004 000 00000000 000000 0-0", "hs 1 2 3 4", "hs 0 4 0 0 0 0 0 0-0"])
def test_a_row_that_is_none_is_named(row):
    with pytest.raises(DeviceError, match="not understood"):
        parse_status("hub port\n" + row)


def test_the_ports_of_all_controllers_are_found_in_their_order(tmp_path):
    kernel = Kernel(tmp_path, controllers=11, ports=15)  # status.10 sorts before status.2
    found = kernel.vhci.ports()
    assert [port.number for port in found] == list(range(330))
    assert {port.hub for port in found[15:30]} == {"ss"}


@pytest.mark.parametrize(
    ("speed", "number", "told"),
    [(Speed.LOW, 0, 1), (Speed.HIGH, 0, 3), (Speed.SUPER, 3, 5), (Speed.SUPER_PLUS, 3, 5)],
)
async def test_the_hub_is_the_one_that_the_kernel_will_take_for_that_speed(kernel, stream, speed, number, told):
    assert kernel.vhci.attach(stream, 0x10002, speed) == number
    assert (kernel.ports[number].speed, kernel.ports[number].devid) == (told, 0x10002)
    kernel.drop(number)


async def test_the_next_controller_is_used_when_the_first_is_full(kernel, stream):
    for number in (0, 1, 2):
        kernel.take(number)
    assert kernel.vhci.attach(stream, 0x10002, Speed.HIGH) == 6
    kernel.drop(6)


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EINVAL])  # Linux before 4.20 said EINVAL
async def test_a_port_that_another_was_quicker_at_is_passed_over(kernel, stream, monkeypatch, code):
    def write(path: Path, words: str) -> None:
        try:
            kernel.write(path, words)
        except OSError as error:
            raise OSError(code, os.strerror(code)) from error

    monkeypatch.setattr(vhci, "_write", write)
    kernel.before_attach = lambda number: kernel.take(number) if number < 2 else None
    assert kernel.vhci.attach(stream, 0x10002, Speed.HIGH) == 2
    kernel.drop(2)


async def test_a_controller_that_is_not_ready_is_passed_over(kernel, stream, monkeypatch):
    def write(path: Path, words: str) -> None:
        if words.startswith("0 "):
            raise OSError(errno.EAGAIN, "not ready")
        kernel.write(path, words)

    monkeypatch.setattr(vhci, "_write", write)
    assert kernel.vhci.attach(stream, 0x10002, Speed.HIGH) == 1
    kernel.drop(1)


async def test_when_all_ports_are_in_use_it_is_said_of_the_right_ones(kernel, stream):
    for port in kernel.ports:
        if port.hub == "ss":
            kernel.take(port.number)
    with pytest.raises(Busy, match="all 6 SuperSpeed ports"):
        kernel.vhci.attach(stream, 0x10002, Speed.SUPER)
    assert kernel.vhci.attach(stream, 0x10002, Speed.HIGH) == 0
    kernel.drop(0)


def plant(root: Path, status: str) -> Vhci:
    folder = root / "sys/devices/platform/vhci_hcd"
    folder.mkdir(parents=True)
    for name, text in (("attach", ""), ("detach", ""), ("status", status)):
        (folder / name).write_text(text)
    return Vhci(root)


def test_an_old_kernel_is_told_in_its_old_place(tmp_path, stream):
    assert plant(tmp_path, LINUX_4_9).attach(stream, 0x10002, Speed.FULL) == 2
    assert (tmp_path / "sys/devices/platform/vhci_hcd/attach").read_text() == f"2 {stream} 65538 2"


def test_a_kernel_without_a_fast_hub_is_named(tmp_path, stream):
    with pytest.raises(DeviceError, match=r"no SuperSpeed devices; Linux 4\.13"):
        plant(tmp_path, LINUX_4_9).attach(stream, 0x10002, Speed.SUPER)


def test_a_missing_module_is_named_with_its_command(tmp_path):
    module = tmp_path / "lib/modules" / os.uname().release / "modules.dep"
    module.parent.mkdir(parents=True)
    module.write_text("kernel/drivers/usb/usbip/vhci-hcd.ko:\n")
    for ask in (Vhci(tmp_path).check, Vhci(tmp_path).ports):
        with pytest.raises(DeviceError, match=r"as root: modprobe vhci-hcd$"):
            ask()


@pytest.mark.parametrize(
    ("dep", "system", "text"),
    [
        ("kernel/drivers/usb/usbip/vhci-hcd.ko.zst: kernel/x.ko\n", "ID=debian\n", "as root: modprobe vhci-hcd$"),
        ("extra/vhci_hcd.ko:\n", "ID=fedora\n", "as root: modprobe vhci-hcd$"),
        ("kernel/x.ko:\n", "NAME=Ubuntu\nID=ubuntu\n", r"as root: apt install linux-modules-extra-\S+$"),
        (
            "kernel/x.ko:\n",
            "ID=arch\n",
            "has no USB/IP client: it was built without vhci-hcd",
        ),
        (
            None,
            "ID=debian\n",
            "^there are no modules of Linux .* here, as in a container: load vhci-hcd where they are, as root$",
        ),
    ],
)
def test_a_module_that_does_not_exist_is_not_to_be_loaded(tmp_path, dep, system, text):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(system)
    if dep is not None:
        modules = tmp_path / "lib/modules" / os.uname().release
        modules.mkdir(parents=True)
        (modules / "modules.dep").write_text(dep)
    with pytest.raises(DeviceError, match=text):
        Vhci(tmp_path).check()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_who_is_not_root_is_told_so(kernel, stream, monkeypatch, code):
    def refuse(path: Path, words: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(vhci, "_write", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    kernel.take(1)
    for ask in (
        kernel.vhci.check,
        lambda: kernel.vhci.attach(stream, 0x10002, Speed.HIGH),
        lambda: kernel.vhci.detach(1),
    ):
        with pytest.raises(DeviceError, match="sudo"):
            ask()


def test_what_the_kernel_does_not_take_is_said_with_its_numbers(kernel, stream):
    with pytest.raises(DeviceError, match=rf"0 {stream} 65538 0\): Invalid argument"):
        kernel.vhci.attach(stream, 0x10002, Speed.UNKNOWN)


def test_an_unknown_port_and_an_empty_one_are_not_detached(kernel):
    with pytest.raises(NotFound, match="no port 99"):
        kernel.vhci.detach(99)
    with pytest.raises(NotFound, match="nothing is attached to port 1"):
        kernel.vhci.detach(1)


async def test_detaching_frees_the_port(kernel):
    kernel.take(4, speed=5)
    was = kernel.vhci.port(4)
    kernel.vhci.detach(4)
    await kernel.vhci.wait_free(was)
    assert kernel.vhci.port(4).state == FREE


async def test_a_port_that_another_has_taken_since_counts_as_free(kernel):
    kernel.take(0)
    was = kernel.vhci.port(0)
    kernel.drop(0)
    kernel.take(0, fd=9)
    await kernel.vhci.wait_free(was)


async def test_a_device_that_the_kernel_cannot_read_is_an_error(kernel, monkeypatch):
    monkeypatch.setattr(vhci, "ENUMERATE_SECONDS", 0.05)
    kernel.enumerates = False
    kernel.take(0)
    with pytest.raises(DeviceError, match="could not read the device"):
        await kernel.vhci.wait_enumerated(0)
    kernel.drop(0)
    with pytest.raises(DeviceError, match="dropped the device again"):
        await kernel.vhci.wait_enumerated(0)


def test_records_are_those_of_the_usbip_tool(kernel, tmp_path):
    record = Record("10.0.2.2", "3240", "1-2")
    assert kernel.vhci.write_record(7, record)
    assert (tmp_path / "var/run/vhci_hcd/port7").read_text() == "10.0.2.2 3240 1-2\n"
    assert kernel.vhci.read_record(7) == record
    kernel.vhci.remove_record(7)
    kernel.vhci.remove_record(7)
    assert kernel.vhci.read_record(7) is None


def test_what_comes_from_no_usbip_server_has_a_record_without_an_address(kernel, tmp_path):
    """The usbip tool takes a record for three words: of one it says "unknown host"."""
    assert kernel.vhci.write_record(7, None)
    assert len((tmp_path / "var/run/vhci_hcd/port7").read_text().split()) == 1
    assert (kernel.vhci.has_record(7), kernel.vhci.read_record(7)) == (True, None)
    kernel.vhci.remove_record(7)
    assert not kernel.vhci.has_record(7)


def test_no_two_relays_have_the_same_record(kernel):
    first, second = kernel.vhci.write_record(7, None), kernel.vhci.write_record(7, None)
    assert first != second
    assert [kernel.vhci.has_record(7, text) for text in (first, second)] == [False, True]
    kernel.vhci.remove_record(7)
    assert not kernel.vhci.has_record(7, second)


def test_a_record_that_is_none_counts_for_nothing(kernel, tmp_path):
    kernel.vhci.write_record(1, Record("h", "1", "1-1"))
    (tmp_path / "var/run/vhci_hcd/port1").write_text("two words\n")
    assert kernel.vhci.read_record(1) is None


def test_a_record_that_cannot_be_written_stops_nobody(kernel, tmp_path, caplog):
    (tmp_path / "var").write_text("in the way")
    assert not kernel.vhci.write_record(7, Record("h", "1", "1-1"))
    assert "cannot be noted" in caplog.text
