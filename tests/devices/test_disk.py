"""The disk's USB side: Bulk-Only Transport as hosts speak it, the thirteen cases, resets, slow storage."""

import asyncio
import struct
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.disk_host import Host, cbw, cdb16, read10, write10
from tests.devices.host import ask, opened, turn
from usbferry.device import DeviceError
from usbferry.devices.disk import IN, OUT, Disk
from usbferry.devices.storage.memory import Memory
from usbferry.usb.setup import Setup, clear_halt, set_configuration
from usbferry.usb.transfer import Completion, Flags, Transfer
from usbferry.usb.types import Speed, Status, TransferType

MIB = 1 << 20
INQUIRY = bytes([0x12, 0, 0, 0, 36, 0])
TEST_READY = bytes(6)
PASSED, FAILED, PHASE_ERROR = 0, 1, 2
INVALID_OPCODE = (0x5, 0x20, 0x00)


class Slow(Memory):
    """A backing that answers when it is told to, as a disk that wakes up or a network that hangs."""

    is_quick = False

    def __init__(self, size):
        super().__init__(size)
        self.is_quick = False
        self.gate = threading.Event()
        self.asked = []
        self.error = None

    def _wait(self, *what):
        self.asked.append(what)
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error

    def peek(self, offset, length):
        return None

    def read(self, offset, length):
        self._wait("read", offset, length)
        return super().read(offset, length)

    def write(self, offset, pieces):
        self._wait("write", offset, sum(map(len, pieces)))
        super().write(offset, pieces)

    def sync(self):
        self._wait("sync")


@pytest.fixture
async def disk():
    async with opened(Disk(size=4 * MIB)) as device:
        yield device


@pytest.fixture
def host(disk):
    return Host(disk)


@pytest.fixture
async def slow():
    backing = Slow(64 * MIB)
    async with opened(Disk(backing)) as device:
        device.backing = backing
        yield device
        backing.gate.set()


async def until(condition):
    """Wait for a thread."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.to_thread(time.sleep, 0.001)


# -- what it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speed", "packet"), [(Speed.FULL, 64), (Speed.HIGH, 512), (Speed.SUPER, 1024)])
def test_it_is_scsi_over_bulk_only(speed, packet):
    (interface,) = Disk(size=MIB, speed=speed).info.configurations[0].interfaces
    triple = (interface.interface_class, interface.interface_subclass, interface.interface_protocol)
    assert triple == (0x08, 0x06, 0x50)
    assert [(e.address, e.type, e.packet_size) for e in interface.endpoints] == [
        (IN, TransferType.BULK, packet),
        (OUT, TransferType.BULK, packet),
    ]
    bursts = [e.companion and e.companion.max_burst for e in interface.endpoints]
    assert bursts == ([15, 15] if speed is Speed.SUPER else [None, None])


def test_its_serial_number_is_12_digits_or_more_and_stays_with_its_image(tmp_path):
    one, other = tmp_path / "one.img", tmp_path / "other.img"
    serials = [Disk(image=path, size=MIB).info.serial for path in (one, other, one)]
    assert serials[0] == serials[2] != serials[1]
    assert len(serials[0]) >= 12
    assert set(serials[0]) <= set("0123456789ABCDEF")
    assert Disk(size=MIB).info.serial != Disk(size=MIB).info.serial
    assert Disk(size=MIB, serial="ABC-1", product="Stick").info.serial == "ABC-1"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "image=FILE"),
        ({"size": 1000}, "no whole number of 512-byte blocks; 64M is 64 MiB"),
        ({"size": 4096 + 512, "block": 4096}, "no whole number of 4096-byte blocks"),
        ({"size": MIB, "block": 1024}, "512 or 4096"),
        ({"size": MIB, "speed": Speed.LOW}, "low speed"),
        ({"size": MIB, "serial": "ä"}, "serial is up to 126"),
        ({"size": MIB, "product": "x" * 127}, "product is up to 126"),
        ({"size": -512}, "image=FILE"),
    ],
)
def test_options_that_make_no_disk(options, text):
    with pytest.raises((ValueError, DeviceError), match=text):
        Disk(**options)


def test_image_and_files_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        Disk(image=tmp_path / "x", files=tmp_path)


async def test_class_requests(disk):
    answer = ask(disk, Setup(0xA1, 0xFE, 0, 0, 1))
    assert (answer.status, bytes(answer.data)) == (Status.OK, b"\0")
    assert ask(disk, Setup(0x21, 0xFF)).status == Status.OK


@pytest.mark.parametrize(
    "setup",
    [
        (0xA1, 0xFE, 1, 0, 1),
        (0xA1, 0xFE, 0, 1, 1),
        (0xA1, 0xFE, 0, 0, 2),
        (0x21, 0xFF, 1, 0, 0),
        (0x21, 0xFF, 0, 1, 0),
        (0x21, 0xFE, 0, 0, 0),
        (0xA1, 0xFF, 0, 0, 1),
    ],
)
async def test_class_requests_that_are_wrong_stall(disk, setup):
    assert ask(disk, Setup(*setup)).status == Status.STALL


# -- reading and writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [512, 4096, 16384, MIB])
async def test_what_was_written_is_read(disk, piece):
    host = Host(disk, piece)
    data = bytes(i * 7 & 0xFF for i in range(512)) * 300 + b"\x01" * 512 * 20
    await host.write(17, data)
    assert await host.read(17, 320) == data
    assert await host.read(0, 17) == bytes(17 * 512)
    assert await host.read(337, 4) == bytes(4 * 512)


async def test_answers_that_are_there_are_given_at_once(disk):
    assert isinstance(disk.submit(Transfer(OUT, 31, cbw(1, 4096, True, read10(0, 8)))), Completion)
    assert isinstance(disk.submit(Transfer(IN, 4096)), Completion)
    assert isinstance(disk.submit(Transfer(IN, 13)), Completion)


async def test_a_host_may_send_all_transfers_of_a_command_at_once(disk, host):
    """As hosts across a network do, to save round trips; also in an order that no cable would allow."""
    status, data = disk.submit(Transfer(IN, 1024)), disk.submit(Transfer(IN, 13))
    assert not status.done()
    sent = disk.submit(Transfer(OUT, 31, cbw(5, 1024, True, read10(0, 2))))
    assert sent.status == Status.OK
    await turn()
    assert bytes(status.result().data) == bytes(1024)
    assert bytes(data.result().data) == struct.pack("<4sIIB", b"USBS", 5, 0, 0)


async def test_a_command_sent_too_early_waits_for_the_status_of_the_one_before(disk):
    disk.submit(Transfer(OUT, 31, cbw(1, 0, True, TEST_READY)))
    early = disk.submit(Transfer(OUT, 31, memoryview(bytearray(cbw(2, 0, True, TEST_READY)))))
    await turn()
    assert not early.done()
    assert bytes(disk.submit(Transfer(IN, 13)).data[4:8]) == b"\x01\0\0\0"
    assert (await early).status == Status.OK
    assert bytes(disk.submit(Transfer(IN, 13)).data[4:8]) == b"\x02\0\0\0"


async def test_data_in_cut_across_what_was_fetched(disk, host):
    """3 MiB in pieces that fit no window."""
    data = bytes(range(256)) * (3 * MIB // 256)
    await host.write(0, data)
    host.piece = 200_192
    assert await host.read(0, 3 * MIB // 512) == data


async def test_short_data_that_must_not_be_short_says_so(disk):
    disk.submit(Transfer(OUT, 31, cbw(1, 64, True, INQUIRY)))
    answer = disk.submit(Transfer(IN, 64, flags=Flags.SHORT_NOT_OK))
    assert (answer.status, len(answer.data)) == (Status.SHORT, 36)


async def test_a_status_that_does_not_fit_overflows(disk, host):
    disk.submit(Transfer(OUT, 31, cbw(1, 0, True, TEST_READY)))
    answer = disk.submit(Transfer(IN, 12))
    assert (answer.status, len(answer.data)) == (Status.OVERFLOW, 0)
    assert (await host.command(TEST_READY)).status == PASSED


@pytest.mark.parametrize("code", [0x88, 0x8A])
async def test_a_read_or_write_of_no_blocks(host, code):
    answer = await host.command(cdb16(code, 5, 0))
    assert (answer.status, answer.residue, answer.stalled) == (PASSED, 0, None)
    answer = await host.command(cdb16(code, 5, 0), 512)
    assert (answer.status, answer.residue, answer.stalled) == (PASSED, 512, IN)


async def test_a_status_asked_for_before_the_data_were_sent(disk, host):
    await host.out(cbw(3, 1024, False, write10(0, 2)))
    status = disk.submit(Transfer(IN, 13))
    await host.out(b"\x31" * 512)
    assert not status.done()
    await host.out(b"\x31" * 512)
    assert bytes((await status).data) == struct.pack("<4sIIB", b"USBS", 3, 0, PASSED)


# -- the thirteen cases, BOT §6.7 -----------------------------------------------------------------------------------
# H is what the host means to move, D what the device does; n nothing, i IN, o OUT.


async def test_case_1_hn_dn(host):
    answer = await host.command(TEST_READY)
    assert (answer.status, answer.residue, answer.stalled) == (PASSED, 0, None)


async def test_case_2_hn_di(host):
    answer = await host.command(INQUIRY)
    assert (answer.status, answer.stalled) == (PHASE_ERROR, None)


async def test_case_3_hn_do(host):
    answer = await host.command(write10(0, 1))
    assert (answer.status, answer.stalled) == (PHASE_ERROR, None)


async def test_case_4_hi_dn(host):
    answer = await host.command(TEST_READY, 512)
    assert (answer.status, answer.data, answer.residue, answer.stalled) == (PASSED, b"", 512, IN)


@pytest.mark.parametrize("length", [37, 64, 512, 4096])
async def test_case_5_hi_more_than_di(host, length):
    """A short packet, then a stall: a host that has queued several transfers must not take the status for data."""
    answer = await host.command(INQUIRY, length)
    assert (answer.status, len(answer.data), answer.residue, answer.stalled) == (PASSED, 36, length - 36, IN)


async def test_case_5_where_the_data_are_whole_packets(host):
    answer = await host.command(read10(0, 2), 2048)
    assert (answer.status, len(answer.data), answer.residue, answer.stalled) == (PASSED, 1024, 1024, IN)


async def test_case_5_stalls_what_the_host_has_queued(disk, host):
    disk.submit(Transfer(OUT, 31, cbw(1, 4096, True, INQUIRY)))
    answers = [disk.submit(Transfer(IN, 512)) for _ in range(8)]
    assert [a.status for a in answers] == [Status.OK] + [Status.STALL] * 7
    await host.clear(IN)
    assert bytes(disk.submit(Transfer(IN, 13)).data) == struct.pack("<4sIIB", b"USBS", 1, 4060, 0)


async def test_case_6_hi_di(host):
    answer = await host.command(INQUIRY, 36)
    assert (answer.status, len(answer.data), answer.residue, answer.stalled) == (PASSED, 36, 0, None)


async def test_case_7_hi_less_than_di(host):
    answer = await host.command(read10(0, 2), 512)
    assert (answer.status, answer.data, answer.stalled) == (PHASE_ERROR, b"", IN)


async def test_case_8_hi_do(host):
    answer = await host.command(write10(0, 1), 512)
    assert (answer.status, answer.data, answer.stalled) == (PHASE_ERROR, b"", IN)


async def test_case_9_ho_dn(host):
    answer = await host.command(TEST_READY, data=bytes(512))
    assert (answer.status, answer.residue, answer.stalled) == (PASSED, 512, OUT)


async def test_case_10_ho_di(host):
    answer = await host.command(INQUIRY, data=bytes(36))
    assert (answer.status, answer.stalled) == (PHASE_ERROR, OUT)


@pytest.mark.parametrize("piece", [512, 2048])
async def test_case_11_ho_more_than_do(host, piece):
    host.piece = piece
    answer = await host.command(write10(0, 2), data=b"\x55" * 2048)
    assert (answer.status, answer.residue, answer.stalled) == (PASSED, 1024, None)
    assert await host.read(0, 4) == b"\x55" * 1024 + bytes(1024)


async def test_case_12_ho_do(host):
    answer = await host.command(write10(0, 1), data=bytes(512))
    assert (answer.status, answer.residue, answer.stalled) == (PASSED, 0, None)


async def test_case_13_ho_less_than_do(host):
    answer = await host.command(write10(0, 2), data=b"\x55" * 512)
    assert (answer.status, answer.stalled) == (PHASE_ERROR, OUT)
    assert await host.read(0, 2) == bytes(1024)


async def test_after_a_phase_error_and_recovery_it_goes_on(host):
    assert (await host.command(write10(0, 1))).status == PHASE_ERROR
    await host.recover()
    assert (await host.command(INQUIRY, 36)).status == PASSED


@pytest.mark.parametrize("length", [0, 36])
async def test_a_command_that_fails_moves_nothing(host, length):
    answer = await host.command(b"\xff" + bytes(5), length)
    assert (answer.status, answer.data, answer.residue) == (FAILED, b"", length)
    assert await host.sense() == INVALID_OPCODE


async def test_a_write_that_fails_stalls(host):
    answer = await host.command(write10(8192, 1), data=bytes(512))
    assert (answer.status, answer.residue, answer.stalled) == (FAILED, 512, OUT)
    assert await host.sense() == (0x5, 0x21, 0x00)


@pytest.mark.parametrize("last", [b"", b"\x33" * 100])
async def test_a_host_that_ends_its_data_early_is_told(disk, host, last):
    """By a short packet, as the Linux gadget takes it too; otherwise both would wait."""
    host.tag += 1
    await host.out(cbw(host.tag, 2048, False, write10(0, 4)))
    await host.out(b"\x33" * 1024)
    await host.out(last)
    answer = await host._status(b"", None)
    assert (answer.status, answer.residue) == (FAILED, 1024 - len(last))
    assert await host.sense() == (0xB, 0x4B, 0x00)


# -- wrappers that are none -----------------------------------------------------------------------------------------

GOOD = cbw(1, 0, False, TEST_READY)


@pytest.mark.parametrize(
    "wrapper",
    [
        pytest.param(b"", id="empty"),
        pytest.param(GOOD[:30], id="short"),
        pytest.param(GOOD + b"\0", id="long"),
        pytest.param(b"USBS" + GOOD[4:], id="signature"),
        pytest.param(bytes(31), id="zeros"),
        pytest.param(GOOD[:12] + b"\x01" + GOOD[13:], id="reserved flags"),
        pytest.param(GOOD[:13] + b"\x10" + GOOD[14:], id="reserved bits of the unit"),
        pytest.param(GOOD[:14] + b"\0" + GOOD[15:], id="no command"),
        pytest.param(GOOD[:14] + b"\x11" + GOOD[15:], id="command of 17 bytes"),
    ],
)
async def test_an_invalid_wrapper_stalls_both_endpoints_until_reset_recovery(disk, host, wrapper):
    """BOT §6.6.1: clearing the halts is not enough."""
    assert (await host.out(wrapper)).status == Status.STALL
    assert (await host.into(13)).status == Status.STALL
    for endpoint in (IN, OUT):
        await host.clear(endpoint)
    assert (await host.into(13)).status == Status.STALL
    assert (await host.out(GOOD)).status == Status.STALL
    assert host.reset().status == Status.OK
    assert (await host.out(GOOD)).status == Status.STALL  # "shall not affect the halts", BOT §3.1
    await host.clear(IN)
    await host.clear(OUT)
    assert (await host.command(TEST_READY)).status == PASSED


async def test_a_reset_of_the_port_mends_it_too(disk, host):
    await host.out(b"nonsense")
    await disk.reset()
    assert (await host.command(TEST_READY)).status == FAILED  # unit attention
    assert (await host.command(TEST_READY)).status == PASSED


async def test_set_configuration_starts_anew(disk, host):
    await host.out(cbw(9, 512, True, read10(0, 1)))
    assert ask(disk, set_configuration(1)).status == Status.OK
    assert (await host.command(TEST_READY)).status == PASSED


async def test_units_that_are_not_there(host):
    answer = await host.command(INQUIRY, 36, lun=3)
    assert (answer.status, answer.data[0]) == (PASSED, 0x7F)
    assert (await host.command(TEST_READY, lun=3)).status == FAILED
    answer = await host.command(bytes([0x03, 0, 0, 0, 18, 0]), 18, lun=3)
    assert (answer.data[2], answer.data[12]) == (0x05, 0x25)
    assert (await host.command(TEST_READY)).status == PASSED


# -- resets, halts, cancels -----------------------------------------------------------------------------------------


async def test_a_port_reset_is_told_once_and_a_bulk_only_reset_is_not(disk, host):
    assert (await host.command(TEST_READY)).status == PASSED
    await disk.reset()
    assert (await host.command(INQUIRY, 36)).status == PASSED  # told to those who ask for the medium
    assert (await host.command(read10(0, 1), 512)).status == FAILED
    assert await host.sense() == (0x6, 0x29, 0x00)
    assert (await host.command(read10(0, 1), 512)).status == PASSED
    await host.recover()
    assert (await host.command(read10(0, 1), 512)).status == PASSED


async def test_a_bulk_only_reset_in_the_middle_of_data(disk, host):
    await host.out(cbw(9, 4096, True, read10(0, 8)))
    assert len((await host.into(512)).data) == 512
    await host.recover()
    assert await host.read(0, 1) == bytes(512)


async def test_a_bulk_only_reset_in_the_middle_of_a_write(disk, host):
    await host.out(cbw(9, 2048, False, write10(0, 4)))
    await host.out(b"\x44" * 512)
    await host.recover()
    assert (await host.command(TEST_READY)).status == PASSED
    assert await host.read(1, 3) == bytes(1536)


async def test_a_parked_transfer_can_be_cancelled_and_the_next_one_gets_the_data(slow):
    host = Host(slow)
    await host.out(cbw(1, 512, True, read10(0, 1)))
    parked = Transfer(IN, 512)
    answer = slow.submit(parked)
    slow.cancel(parked)
    assert (await answer).status == Status.CANCELLED
    slow.backing.gate.set()
    assert bytes((await host.into(512)).data) == bytes(512)
    assert len((await host.into(13)).data) == 13


async def test_a_halt_set_by_the_host_is_only_a_pause(disk, host):
    await host.out(cbw(7, 512, True, read10(0, 1)))
    ask(disk, Setup(0x02, 3, 0, IN))
    assert (await host.into(512)).status == Status.STALL
    await host.clear(IN)
    assert len((await host.into(512)).data) == 512
    assert len((await host.into(13)).data) == 13


# -- slow storage ---------------------------------------------------------------------------------------------------


async def test_a_slow_read_parks_its_transfers_and_the_loop_runs_on(slow):
    host = Host(slow)
    await host.out(cbw(1, 1024, True, read10(0, 2)))
    data, status = slow.submit(Transfer(IN, 1024)), slow.submit(Transfer(IN, 13))
    await until(lambda: slow.backing.asked)
    assert ask(slow, Setup(0xA1, 0xFE, 0, 0, 1)).status == Status.OK
    assert not data.done()
    assert not status.done()
    slow.backing.gate.set()
    assert bytes((await data).data) == bytes(1024)
    assert len((await status).data) == 13


async def test_the_data_of_a_read_are_asked_for_before_the_host_does(slow):
    await Host(slow).out(cbw(1, 1024, True, read10(2, 2)))
    await until(lambda: slow.backing.asked)
    assert slow.backing.asked == [("read", 1024, 1024)]


async def test_a_slow_write_takes_its_data_at_once_and_holds_its_status(slow):
    host = Host(slow, 4096)
    await host.out(cbw(1, 65536, False, write10(0, 128)))
    for _ in range(16):
        assert isinstance(slow.submit(Transfer(OUT, 4096, b"\x77" * 4096)), Completion)
    status = slow.submit(Transfer(IN, 13))
    await until(lambda: slow.backing.asked)
    await turn()
    assert slow.backing.asked == [("write", 0, 65536)]  # as one piece
    assert not status.done()
    slow.backing.gate.set()
    assert (await status).data[12] == PASSED
    assert await host.read(0, 128) == b"\x77" * 65536


async def test_what_a_slow_write_may_hold_is_bounded(slow):
    """Then the endpoint NAKs, and takes the rest as the storage does."""
    blocks = 32 * MIB // 512
    slow.submit(Transfer(OUT, 31, cbw(1, 32 * MIB, False, cdb16(0x8A, 0, blocks))))
    taken, answer = 0, None
    while not isinstance(answer, asyncio.Future):
        answer = slow.submit(Transfer(OUT, 65536, bytes(65536)))
        taken += 65536
    assert taken <= 5 * MIB
    slow.backing.gate.set()
    assert (await answer).actual == 65536
    while taken < 32 * MIB:
        answer = slow.submit(Transfer(OUT, 65536, bytes(65536)))
        assert (answer if isinstance(answer, Completion) else await answer).status == Status.OK
        taken += 65536
    status = slow.submit(Transfer(IN, 13))
    assert (status if isinstance(status, Completion) else await status).data[12] == PASSED


async def test_synchronize_cache_waits_for_the_storage(slow):
    host = Host(slow)
    await host.out(cbw(1, 0, False, bytes([0x35]) + bytes(9)))
    status = slow.submit(Transfer(IN, 13))
    await until(lambda: slow.backing.asked)
    assert not status.done()
    slow.backing.gate.set()
    assert (await status).data[12] == PASSED
    assert slow.backing.asked == [("sync",)]


async def test_forced_unit_access_reaches_the_medium_before_the_status(slow):
    slow.backing.gate.set()
    host = Host(slow)
    assert (await host.command(write10(0, 1, flags=0x08), data=bytes(512))).status == PASSED
    assert slow.backing.asked == [("write", 0, 512), ("sync",)]


async def test_a_reset_while_a_read_is_in_the_thread(slow):
    """Its late answer is nobody's: the next command gets its own."""
    slow.backing.write = lambda offset, pieces: Memory.write(slow.backing, offset, pieces)
    host = Host(slow)
    await host.write(8, b"\x99" * 512)
    await host.out(cbw(1, 512, True, read10(0, 1)))
    parked = slow.submit(Transfer(IN, 512))
    await until(lambda: slow.backing.asked)
    assert slow.reset().done()
    assert (await parked).status == Status.SHUTDOWN
    command = asyncio.gather(host.command(TEST_READY))
    assert (await command)[0].status == FAILED  # unit attention
    await host.out(cbw(2, 512, True, read10(8, 1)))
    mine = slow.submit(Transfer(IN, 512))
    await turn()
    assert not mine.done()
    slow.backing.gate.set()
    assert bytes((await mine).data) == b"\x99" * 512


async def test_closed_while_a_read_is_in_the_thread(slow):
    await Host(slow).out(cbw(1, 3 * MIB, True, read10(0, 3 * MIB // 512)))
    parked = slow.submit(Transfer(IN, MIB))
    await until(lambda: slow.backing.asked)
    closing = asyncio.gather(slow.close())
    await turn()
    assert parked.result().status == Status.SHUTDOWN
    assert not closing.done()  # the thread still has the storage
    slow.backing.gate.set()
    await closing
    assert slow.backing.asked == [("read", 0, MIB)]  # and no more of a command that nobody waits for
    assert slow.submit(Transfer(IN, 13)).status == Status.GONE


async def test_a_write_under_way_when_the_host_leaves_is_finished(slow):
    slow.submit(Transfer(OUT, 31, cbw(1, 512, False, write10(0, 1))))
    slow.submit(Transfer(OUT, 512, b"\x66" * 512))
    closing = asyncio.gather(slow.close())
    await turn()
    slow.backing.gate.set()
    await closing
    assert bytes(Memory.read(slow.backing, 0, 512)) == b"\x66" * 512


# -- storage that fails ---------------------------------------------------------------------------------------------


async def test_a_read_that_fails(slow):
    slow.backing.error = OSError(5, "Input/output error")
    slow.backing.gate.set()
    host = Host(slow)
    answer = await host.command(read10(7, 2), 1024)
    assert (answer.status, answer.residue, answer.stalled) == (FAILED, 1024, IN)
    answer = await host.command(bytes([0x03, 0, 0, 0, 18, 0]), 18)
    assert answer.data[:8].hex() == "f00003000000070a"  # MEDIUM ERROR, block 7
    slow.backing.error = None
    assert (await host.command(read10(7, 2), 1024)).status == PASSED


@pytest.mark.parametrize(("number", "sense"), [(5, (0x3, 0x0C, 0)), (28, (0x7, 0x27, 0x07)), (30, (0x7, 0x27, 0))])
async def test_a_write_that_fails_says_so_in_its_own_status(slow, number, sense):
    """28 is ENOSPC, which Linux makes of it again; 30 EROFS."""
    slow.backing.error = OSError(number, "")
    slow.backing.gate.set()
    host = Host(slow)
    answer = await host.command(write10(0, 4), data=bytes(2048))
    assert answer.status == FAILED
    assert await host.sense() == sense
    slow.backing.error = None
    assert (await host.command(write10(0, 4), data=bytes(2048))).status == PASSED


async def test_a_write_that_fails_in_the_middle_takes_the_rest_and_drops_it(slow):
    slow.backing.error = OSError(5, "")
    slow.backing.gate.set()
    host = Host(slow, 65536)
    answer = await host.command(write10(0, 8 * MIB // 512), data=bytes(8 * MIB))
    assert (answer.status, answer.stalled) == (FAILED, None)
    assert await host.sense() == (0x3, 0x0C, 0)
    assert len(slow.backing.asked) < 32


async def test_synchronize_cache_that_fails(slow):
    slow.backing.error = OSError(5, "")
    slow.backing.gate.set()
    host = Host(slow)
    assert (await host.command(bytes([0x35]) + bytes(9))).status == FAILED
    assert await host.sense() == (0x3, 0x0C, 0)


async def test_a_disk_in_memory_that_finds_no_more_memory(disk, host, monkeypatch):
    def refuse(offset, pieces):
        raise MemoryError

    monkeypatch.setattr(disk._storage._backing, "write", refuse)
    assert (await host.command(write10(0, 1), data=bytes(512))).status == FAILED
    assert await host.sense() == (0x3, 0x0C, 0)


# -- verify, write same, unmap: data of other kinds -----------------------------------------------------------------


@pytest.mark.parametrize("threaded", [False, True])
async def test_verify_compares(disk, slow, threaded):
    slow.backing.gate.set()
    host = Host(slow if threaded else disk)
    await host.write(4, b"\x12" * 2048)
    verify = struct.pack(">BBIBHB", 0x2F, 0x02, 4, 0, 4, 0)
    assert (await host.command(verify, data=b"\x12" * 2048)).status == PASSED
    assert (await host.command(verify, data=b"\x12" * 2047 + b"\x13")).status == FAILED
    assert await host.sense() == (0xE, 0x1D, 0)


async def test_write_same_and_unmap(host):
    await host.write(0, b"\xaa" * 8192)
    same = struct.pack(">BBIBHB", 0x41, 0, 2, 0, 3, 0)
    assert (await host.command(same, data=b"\x5a" * 512)).status == PASSED
    assert await host.read(0, 8) == b"\xaa" * 1024 + b"\x5a" * 1536 + b"\xaa" * 1536
    assert (await host.command(cdb16(0x93, 4, 2, 0x01))).status == PASSED  # NDOB
    ranges = struct.pack(">HH4xQI4xQI4x", 38, 32, 0, 1, 7, 1)
    assert (await host.command(bytes([0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0]), data=ranges)).status == PASSED
    expected = bytes(512) + b"\xaa" * 512 + b"\x5a" * 1024 + bytes(1024) + b"\xaa" * 512 + bytes(512)
    assert await host.read(0, 8) == expected


async def test_a_parameter_list_that_ends_early(host):
    host.tag += 1
    await host.out(cbw(host.tag, 24, False, bytes([0x15, 0x10, 0, 0, 24, 0])))
    await host.out(bytes(4))
    assert (await host._status(b"", None)).status == FAILED
    assert await host.sense() == (0xB, 0x4B, 0x00)


async def test_a_parameter_list_that_is_wrong(host):
    ranges = struct.pack(">HH4xQI4x", 22, 16, 8191, 2)
    answer = await host.command(bytes([0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]), data=ranges)
    assert (answer.status, answer.stalled) == (FAILED, None)
    assert await host.sense() == (0x5, 0x21, 0)


# -- claims ---------------------------------------------------------------------------------------------------------


async def test_a_disk_in_memory_keeps_its_content_and_loads_an_ejected_medium_again():
    disk = Disk(size=MIB, removable=True)
    async with opened(disk):
        host = Host(disk)
        await host.write(3, b"\x21" * 512)
        assert (await host.command(bytes([0x1B, 0, 0, 0, 0x02, 0]))).status == PASSED
        assert (await host.command(TEST_READY)).status == FAILED
        assert await host.sense() == (0x2, 0x3A, 0x00)
    async with opened(disk):
        host = Host(disk)
        assert await host.read(3, 1) == b"\x21" * 512


async def test_a_disk_that_vanishes_ends_everything(slow):
    await Host(slow).out(cbw(1, 512, True, read10(0, 1)))
    parked = slow.submit(Transfer(IN, 512))
    slow.vanish()
    assert (await parked).status == Status.GONE
    slow.backing.gate.set()


async def test_blocks_of_4096_bytes():
    async with opened(Disk(size=4 * MIB, block=4096)) as disk:
        host = Host(disk)
        await host.write(1023, b"\x08" * 4096, 4096)
        assert await host.read(1023, 1, 4096) == b"\x08" * 4096
        assert (await host.command(read10(1024, 1), 4096)).status == FAILED


async def test_clear_halt_when_nothing_is_halted(disk, host):
    assert ask(disk, clear_halt(IN)).status == Status.OK
    assert (await host.command(TEST_READY)).status == PASSED


# -- any host -------------------------------------------------------------------------------------------------------

COMMANDS = st.one_of(
    st.binary(min_size=1, max_size=16),
    st.sampled_from([read10(0, 8), write10(8, 8), INQUIRY, TEST_READY, cdb16(0x93, 0, 9, 1), bytes([0x35]) + bytes(9)]),
)
WRAPPERS = st.builds(
    cbw, st.integers(0, 9), st.sampled_from([0, 13, 36, 512, 4096, 1 << 31]), st.booleans(), COMMANDS, st.integers(0, 2)
)
STEPS = st.one_of(
    st.tuples(
        st.just("out"), st.one_of(WRAPPERS, WRAPPERS, st.binary(max_size=40), st.sampled_from([512, 4096]).map(bytes))
    ),
    st.tuples(st.just("in"), st.sampled_from([0, 1, 13, 36, 512, 4096, 100_000])),
    st.tuples(st.just("clear"), st.sampled_from([IN, OUT])),
    st.tuples(st.just("halt"), st.sampled_from([IN, OUT])),
    st.tuples(st.sampled_from(["reset", "port", "configure", "cancel", "turn"]), st.none()),
)


async def any_host(disk, steps):
    """Whatever it does, it gets answers, never more than it asked for; and Reset Recovery mends all of it."""
    pending = []
    for what, value in steps:
        if what in ("out", "in"):
            transfer = Transfer(OUT, len(value), value) if what == "out" else Transfer(IN, value)
            answer = disk.submit(transfer)
            if isinstance(answer, asyncio.Future):
                pending.append((transfer, answer))
            else:
                assert answer.status in (Status.OK, Status.STALL, Status.OVERFLOW)
                assert len(answer.data) <= transfer.length
        elif what == "cancel" and pending:
            disk.cancel(pending.pop()[0])
        elif what == "port":
            await disk.reset()
        elif what == "turn":
            await turn()
        else:
            requests = {"reset": Setup(0x21, 0xFF), "configure": set_configuration(1), "clear": clear_halt(value or IN)}
            ask(disk, requests.get(what, Setup(0x02, 3, 0, value or IN)))
    for transfer, answer in pending:
        disk.cancel(transfer)
        assert (await answer).status != Status.FAILED
    host = Host(disk)
    await host.recover()
    await host.command(TEST_READY)  # perhaps a unit attention, or stopped
    answer = await host.command(INQUIRY, 36)
    assert (answer.status, len(answer.data)) == (PASSED, 36)


@given(st.lists(STEPS, max_size=30), st.booleans())
def test_any_host_is_answered_and_recovers(steps, threaded):
    async def run():
        backing = Slow(MIB) if threaded else Memory(MIB)
        if threaded:
            backing.gate.set()
        async with opened(Disk(backing, removable=True)) as disk:
            await any_host(disk, steps)

    asyncio.run(run())
