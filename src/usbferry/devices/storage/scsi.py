"""The SCSI commands of a disk, as Linux, Windows and macOS use them: a command block in, a plan out. No I/O.

`Unit.execute` checks a command against the medium and says what is to be done: the Plan. Who carries it out (the
transport) tells failures with `fail`, and the host hears why by REQUEST SENSE. Sources: SPC-4, SBC-3, MMC-6 for 23h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct, pack, unpack_from
from typing import Final

from . import pages
from .pages import Identity
from .sense import (
    INVALID_FIELD,
    INVALID_LIST,
    INVALID_OPCODE,
    LIST_LENGTH,
    MEDIUM_CHANGED,
    NEEDS_START,
    NO_MEDIUM,
    NO_SENSE,
    NO_SUCH_UNIT,
    NOT_SAVED,
    OUT_OF_RANGE,
    REMOVAL_PREVENTED,
    WAS_RESET,
    WRITE_PROTECTED,
    Check,
    Sense,
)


@dataclass(slots=True)
class Reply:
    """Give these bytes."""

    data: bytes


@dataclass(slots=True)
class Read:
    """Give `length` bytes of the medium, from byte `offset`."""

    offset: int
    length: int


@dataclass(slots=True)
class Write:
    """Take `length` bytes and put them at byte `offset`; on stable storage before the status if `sync`."""

    offset: int
    length: int
    sync: bool = False


@dataclass(slots=True)
class Compare:
    """Take `length` bytes and compare them with those at byte `offset`."""

    offset: int
    length: int


@dataclass(slots=True)
class Parameters:
    """Take `length` bytes; `then` makes the plan that follows of them, or raises Check."""

    length: int
    then: Callable[[bytes], Plan]


@dataclass(frozen=True, slots=True)
class Change:
    """No data: make ranges of (offset, length) bytes zero, or repetitions of `fill`; then `sync`."""

    ranges: Sequence[tuple[int, int]] = ()
    fill: bytes = b""
    sync: bool = False


Plan = Reply | Read | Write | Compare | Parameters | Change
NOTHING: Final = Change()

# The forms of a command block, by the group code in the top bits of its operation code (SPC-4 §4.3.2): flags, block
# address, count. The 6-byte form has its flags within the address.
_CDB10: Final = Struct(">xBIxH").unpack_from
_CDB12: Final = Struct(">xBII").unpack_from
_CDB16: Final = Struct(">xBQI").unpack_from
_PROTECT: Final = 0xE0  # RDPROTECT, WRPROTECT, VRPROTECT: this medium has no protection information
_FUA: Final = 0x08


class Unit:
    """One logical unit."""

    def __init__(self, disk: Identity) -> None:
        self.disk = disk
        self.attention: Sense | None = None
        self.plug_in()

    def plug_in(self) -> None:
        """Power on: the medium is there again, should it have been ejected.

        As with most USB sticks there is no unit attention: a host that has just found the device knows that it is new.
        """
        self.is_loaded = True
        self.reset()
        self.attention = None

    def reset(self) -> None:
        """A reset of the device under a host that goes on with it, and is told once."""
        self.sense = NO_SENSE
        self.attention = WAS_RESET
        self.is_started = True
        self.is_locked = False  # PREVENT ALLOW MEDIUM REMOVAL
        self.write_cache = not self.disk.readonly

    def fail(self, sense: Sense) -> None:
        """The command failed; REQUEST SENSE will say why."""
        self.sense = sense

    def execute(self, cdb: bytes, lun: int = 0) -> Plan:
        """What a command asks for. `cdb` has 16 bytes, zeros after its own. Raises Check."""
        if lun:
            return self._absent(cdb)
        code = cdb[0]
        if code != _REQUEST_SENSE:
            self.sense = NO_SENSE
            if self.attention is not None and code not in _ALWAYS:
                attention, self.attention = self.attention, None
                raise Check(attention)
        handler = _COMMANDS.get(code)
        if handler is None:
            raise Check(INVALID_OPCODE)
        return handler(self, cdb)

    def _absent(self, cdb: bytes) -> Plan:
        """The only unit is 0. SPC-4 §6.4.1, §6.39: INQUIRY and REQUEST SENSE answer all the same."""
        if cdb[0] == _INQUIRY:
            return Reply((b"\x7f" + pages.inquiry(self.disk)[1:])[: int.from_bytes(cdb[3:5], "big")])
        if cdb[0] == _REQUEST_SENSE:
            return Reply(NO_SUCH_UNIT.fixed()[: cdb[4]])
        raise Check(NO_SUCH_UNIT)

    # -- the medium ---------------------------------------------------------------------------------------------------

    def _ready(self) -> None:
        if not self.is_loaded:
            raise Check(NO_MEDIUM)
        if not self.is_started:
            raise Check(NEEDS_START)

    def _range(self, cdb: bytes) -> tuple[int, int, int]:
        """Flags, offset and length in bytes; within the medium."""
        if not (self.is_loaded and self.is_started):
            self._ready()
        group = cdb[0] >> 5
        if group == 4:
            flags, block, count = _CDB16(cdb)
        elif group == 5:
            flags, block, count = _CDB12(cdb)
        elif group:
            flags, block, count = _CDB10(cdb)
        else:
            flags, block, count = 0, int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256
        if flags & _PROTECT:
            raise Check(INVALID_FIELD)
        if block + count > self.disk.blocks:
            raise Check(OUT_OF_RANGE.at(max(block, self.disk.blocks)))
        size = self.disk.block
        return flags, block * size, count * size

    def _writable(self) -> None:
        if self.disk.readonly:
            raise Check(WRITE_PROTECTED)

    def _read(self, cdb: bytes) -> Plan:
        _, offset, length = self._range(cdb)
        return Read(offset, length)

    def _write(self, cdb: bytes) -> Plan:
        flags, offset, length = self._range(cdb)
        if self.disk.readonly:
            raise Check(WRITE_PROTECTED)
        return Write(offset, length, bool(flags & _FUA) or not self.write_cache)

    def _verify(self, cdb: bytes) -> Plan:
        """SBC-3 §5.35: without BYTCHK the blocks need only be readable, and here they are."""
        flags, offset, length = self._range(cdb)
        check = flags >> 1 & 0x03
        if check == 1:
            return Compare(offset, length)
        if check:
            raise Check(INVALID_FIELD)  # 11b: one block, compared with each
        return NOTHING

    def _synchronize(self, cdb: bytes) -> Plan:
        """SBC-3 §5.21; always all of it. A count of 0 means to the end, which the range allows for."""
        self._range(cdb)
        return Change(sync=True)

    def _write_same(self, cdb: bytes) -> Plan:
        """SBC-3 §5.45 and §5.47: one block of data for all, or none with NDOB. UNMAP only allows holes."""
        flags, offset, length = self._range(cdb)
        self._writable()
        if not 0 < length <= pages.MAX_SAME_BYTES or flags & 0x16:  # ANCHOR; PBDATA and LBDATA, which are obsolete
            raise Check(INVALID_FIELD)

        def repeat(data: bytes) -> Plan:
            return Change([(offset, length)], b"" if not any(data) else data, not self.write_cache)

        if flags & 0x01:  # NDOB
            if cdb[0] != 0x93:
                raise Check(INVALID_FIELD)
            return repeat(b"")
        return Parameters(self.disk.block, repeat)

    def _unmap(self, cdb: bytes) -> Plan:
        self._ready()
        self._writable()
        if cdb[1] & 0x01:  # ANCHOR
            raise Check(INVALID_FIELD)
        length = int.from_bytes(cdb[7:9], "big")
        return Parameters(length, self._unmapped) if length else NOTHING

    def _unmapped(self, data: bytes) -> Plan:
        """SBC-3 §5.28.2: a header of 8 bytes, then 16 for each range."""
        if len(data) < 8:
            raise Check(LIST_LENGTH)
        count = min(unpack_from(">2xH", data)[0], len(data) - 8) // 16
        ranges = [unpack_from(">QI", data, 8 + 16 * i) for i in range(count)]
        size = self.disk.block
        for block, blocks in ranges:
            if block + blocks > self.disk.blocks:
                raise Check(OUT_OF_RANGE.at(max(block, self.disk.blocks)))
        if count > pages.MAX_UNMAPS or sum(blocks for _, blocks in ranges) * size > pages.MAX_UNMAP_BYTES:
            raise Check(INVALID_LIST)
        return Change([(block * size, blocks * size) for block, blocks in ranges], sync=not self.write_cache)

    # -- what it is ---------------------------------------------------------------------------------------------------

    def _test_ready(self, cdb: bytes) -> Plan:
        self._ready()
        return NOTHING

    def _request_sense(self, cdb: bytes) -> Plan:
        """SPC-4 §6.39; with nothing else to tell, a pending unit attention is told and done with."""
        sense, self.sense = self.sense, NO_SENSE
        if sense is NO_SENSE and self.attention is not None:
            sense, self.attention = self.attention, None
        return Reply((sense.descriptor() if cdb[1] & 0x01 else sense.fixed())[: cdb[4]])

    def _inquiry(self, cdb: bytes) -> Plan:
        if cdb[1] & 0x01:  # EVPD
            data = pages.vital_product_data(self.disk, cdb[2])
        else:
            data = None if cdb[1] & 0x02 or cdb[2] else pages.inquiry(self.disk)
        if data is None:
            raise Check(INVALID_FIELD)
        return Reply(data[: int.from_bytes(cdb[3:5], "big")])

    def _report_luns(self, cdb: bytes) -> Plan:
        """SPC-4 §6.33: unit 0 alone, and no well known ones."""
        if cdb[2] > 2:
            raise Check(INVALID_FIELD)
        luns = b"" if cdb[2] == 1 else bytes(8)
        return Reply((pack(">I4x", len(luns)) + luns)[: int.from_bytes(cdb[6:10], "big")])

    def _read_capacity(self, cdb: bytes) -> Plan:
        """SBC-3 §5.15: "FFFF_FFFFh if the number of logical blocks exceeds" what fits: READ CAPACITY(16) tells it."""
        self._ready()
        if not cdb[8] & 0x01 and any(cdb[2:6]):  # an address without PMI
            raise Check(INVALID_FIELD)
        return Reply(pack(">II", min(self.disk.blocks - 1, 0xFFFFFFFF), self.disk.block))

    def _service_action_in(self, cdb: bytes) -> Plan:
        if cdb[1] & 0x1F != 0x10:
            raise Check(INVALID_FIELD)
        self._ready()
        # SBC-3 §5.16. Images live in pages of 4 KiB: LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT makes hosts align.
        exponent = 3 if self.disk.block == 512 else 0
        data = pack(">QIBBH16x", self.disk.blocks - 1, self.disk.block, 0, exponent, 0xC000)  # LBPME, LBPRZ
        return Reply(data[: int.from_bytes(cdb[10:14], "big")])

    def _format_capacities(self, cdb: bytes) -> Plan:
        """MMC-6 §6.23: the one descriptor of formatted media (02h), or of a drive without one (03h)."""
        kind = 0x02 if self.is_loaded else 0x03
        size = pack(">IIBBH", 8, min(self.disk.blocks, 0xFFFFFFFF), kind, self.disk.block >> 16, self.disk.block)
        return Reply(size[: int.from_bytes(cdb[7:9], "big")])

    # -- mode pages ---------------------------------------------------------------------------------------------------

    def _mode_sense(self, cdb: bytes) -> Plan:
        is_long = cdb[0] == 0x5A
        control, page, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
        if control == 3:
            raise Check(NOT_SAVED)
        # Of the current values (0), those that may be changed (1) and the defaults (2) only WCE is ever other than 0.
        data = pages.mode_pages(page, not self.disk.readonly if control else self.write_cache)
        if data is None or subpage not in (0x00, 0xFF):
            raise Check(INVALID_FIELD)
        protect = self.disk.readonly << 7  # WP of the DEVICE-SPECIFIC PARAMETER, SBC-3 §6.4.1
        llbaa = is_long and bool(cdb[1] & 0x10)
        head = b"" if cdb[1] & 0x08 or not self.is_loaded else pages.block_descriptor(self.disk, llbaa)
        if is_long:
            reply = (
                pack(">HBBBxH", 6 + len(head) + len(data), 0, protect, llbaa and bool(head), len(head)) + head + data
            )
            return Reply(reply[: int.from_bytes(cdb[7:9], "big")])
        return Reply((pack(">BBBB", 3 + len(head) + len(data), 0, protect, len(head)) + head + data)[: cdb[4]])

    def _mode_select(self, cdb: bytes) -> Plan:
        is_long = cdb[0] == 0x55
        length = int.from_bytes(cdb[7:9], "big") if is_long else cdb[4]
        if cdb[1] & 0x01:  # SP
            raise Check(INVALID_FIELD)
        return Parameters(length, lambda data: self._mode_selected(data, is_long)) if length else NOTHING

    def _mode_selected(self, data: bytes, is_long: bool) -> Plan:
        """Take over WCE, the one field that may change."""
        self.write_cache = pages.selected(self.disk, data, is_long, self.write_cache)
        return Change(sync=not self.write_cache)

    # -- starting and removing ----------------------------------------------------------------------------------------

    def _start_stop(self, cdb: bytes) -> Plan:
        """SBC-3 §5.20. LOEJ ejects or loads; a power condition is taken, and changes nothing here."""
        condition, load, start = cdb[4] >> 4, cdb[4] & 0x02, bool(cdb[4] & 0x01)
        if condition:
            return NOTHING
        if load:
            self._load(start)
        elif start and not self.is_loaded:
            raise Check(NO_MEDIUM)
        else:
            self.is_started = start
        return NOTHING if start else Change(sync=True)

    def _load(self, load: bool) -> None:
        if not self.disk.removable:
            raise Check(INVALID_FIELD)
        if not load and self.is_locked:
            raise Check(REMOVAL_PREVENTED)
        if load and not self.is_loaded:
            self.attention = MEDIUM_CHANGED
        self.is_loaded = load
        self.is_started = True

    def _prevent(self, cdb: bytes) -> Plan:
        if not self.disk.removable:
            raise Check(INVALID_OPCODE)
        if cdb[4] & 0x02:
            raise Check(INVALID_FIELD)
        self.is_locked = bool(cdb[4] & 0x01)
        return NOTHING

    def _diagnose(self, cdb: bytes) -> Plan:
        """SPC-4 §6.42: the default self-test passes; there are no others, and no pages."""
        if cdb[1] & 0xF4 != 0x04 or any(cdb[3:5]):
            raise Check(INVALID_FIELD)
        return NOTHING


_REQUEST_SENSE: Final = 0x03
_INQUIRY: Final = 0x12
_REPORT_LUNS: Final = 0xA0
_ALWAYS: Final = {_REQUEST_SENSE, _INQUIRY, _REPORT_LUNS}  # carried out before a unit attention, SPC-4 §5.14
_COMMANDS: Final[dict[int, Callable[[Unit, bytes], Plan]]] = {
    0x00: Unit._test_ready,
    0x03: Unit._request_sense,
    0x08: Unit._read,  # READ(6)
    0x0A: Unit._write,  # WRITE(6)
    0x12: Unit._inquiry,
    0x15: Unit._mode_select,  # MODE SELECT(6)
    0x1A: Unit._mode_sense,  # MODE SENSE(6)
    0x1B: Unit._start_stop,
    0x1D: Unit._diagnose,  # SEND DIAGNOSTIC
    0x1E: Unit._prevent,  # PREVENT ALLOW MEDIUM REMOVAL
    0x23: Unit._format_capacities,  # READ FORMAT CAPACITIES
    0x25: Unit._read_capacity,  # READ CAPACITY(10)
    0x28: Unit._read,  # READ(10)
    0x2A: Unit._write,  # WRITE(10)
    0x2F: Unit._verify,  # VERIFY(10)
    0x35: Unit._synchronize,  # SYNCHRONIZE CACHE(10)
    0x41: Unit._write_same,  # WRITE SAME(10)
    0x42: Unit._unmap,
    0x55: Unit._mode_select,  # MODE SELECT(10)
    0x5A: Unit._mode_sense,  # MODE SENSE(10)
    0x88: Unit._read,  # READ(16)
    0x8A: Unit._write,  # WRITE(16)
    0x8F: Unit._verify,  # VERIFY(16)
    0x91: Unit._synchronize,  # SYNCHRONIZE CACHE(16)
    0x93: Unit._write_same,  # WRITE SAME(16)
    0x9E: Unit._service_action_in,  # READ CAPACITY(16)
    0xA0: Unit._report_luns,
    0xA8: Unit._read,  # READ(12)
    0xAA: Unit._write,  # WRITE(12)
}
