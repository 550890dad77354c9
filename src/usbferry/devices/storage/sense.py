"""Why a SCSI command failed: sense keys, additional codes, and the two formats they are told in (SPC-4 §4.5)."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from enum import IntEnum
from struct import pack
from typing import Final


class Key(IntEnum):
    """Sense keys, SPC-4 table 41."""

    NO_SENSE = 0x0
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    ABORTED_COMMAND = 0xB
    MISCOMPARE = 0xE


@dataclass(frozen=True, slots=True)
class Sense:
    """A sense key with its additional sense code and qualifier; `information` is the block it is about."""

    key: Key
    code: int = 0  # ADDITIONAL SENSE CODE
    qualifier: int = 0  # ADDITIONAL SENSE CODE QUALIFIER
    information: int | None = None

    def at(self, block: int) -> Sense:
        """The same, about one block."""
        return replace(self, information=block)

    def fixed(self) -> bytes:
        """Fixed format, SPC-4 §4.5.3. A block past 32 bits has no room here, so VALID stays off."""
        fits = self.information is not None and self.information <= 0xFFFFFFFF
        information = self.information if fits else 0
        return pack(
            ">BxBIB4xBB4x", 0x70 | fits << 7, self.key, information, 10, self.code, self.qualifier
        )  # ADDITIONAL SENSE LENGTH 10: 18 bytes in all

    def descriptor(self) -> bytes:
        """Descriptor format, SPC-4 §4.5.2, with an information descriptor where there is a block."""
        more = b"" if self.information is None else pack(">BBBxQ", 0x00, 0x0A, 0x80, self.information)
        return pack(">BBBB3xB", 0x72, self.key, self.code, self.qualifier, len(more)) + more


NO_SENSE: Final = Sense(Key.NO_SENSE)
NEEDS_START: Final = Sense(Key.NOT_READY, 0x04, 0x02)  # LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED
NO_MEDIUM: Final = Sense(Key.NOT_READY, 0x3A, 0x00)  # MEDIUM NOT PRESENT
WRITE_ERROR: Final = Sense(Key.MEDIUM_ERROR, 0x0C, 0x00)
READ_ERROR: Final = Sense(Key.MEDIUM_ERROR, 0x11, 0x00)  # UNRECOVERED READ ERROR
LIST_LENGTH: Final = Sense(Key.ILLEGAL_REQUEST, 0x1A, 0x00)  # PARAMETER LIST LENGTH ERROR
INVALID_OPCODE: Final = Sense(Key.ILLEGAL_REQUEST, 0x20, 0x00)  # INVALID COMMAND OPERATION CODE
OUT_OF_RANGE: Final = Sense(Key.ILLEGAL_REQUEST, 0x21, 0x00)  # LOGICAL BLOCK ADDRESS OUT OF RANGE
INVALID_FIELD: Final = Sense(Key.ILLEGAL_REQUEST, 0x24, 0x00)  # INVALID FIELD IN CDB
NO_SUCH_UNIT: Final = Sense(Key.ILLEGAL_REQUEST, 0x25, 0x00)  # LOGICAL UNIT NOT SUPPORTED
INVALID_LIST: Final = Sense(Key.ILLEGAL_REQUEST, 0x26, 0x00)  # INVALID FIELD IN PARAMETER LIST
NOT_SAVED: Final = Sense(Key.ILLEGAL_REQUEST, 0x39, 0x00)  # SAVING PARAMETERS NOT SUPPORTED
REMOVAL_PREVENTED: Final = Sense(Key.ILLEGAL_REQUEST, 0x53, 0x02)  # MEDIUM REMOVAL PREVENTED
MEDIUM_CHANGED: Final = Sense(Key.UNIT_ATTENTION, 0x28, 0x00)  # NOT READY TO READY CHANGE
WAS_RESET: Final = Sense(Key.UNIT_ATTENTION, 0x29, 0x00)  # POWER ON, RESET, OR BUS DEVICE RESET OCCURRED
WRITE_PROTECTED: Final = Sense(Key.DATA_PROTECT, 0x27, 0x00)
NO_SPACE: Final = Sense(Key.DATA_PROTECT, 0x27, 0x07)  # SPACE ALLOCATION FAILED WRITE PROTECT, SBC-3 §4.7.3.6
DATA_PHASE: Final = Sense(Key.ABORTED_COMMAND, 0x4B, 0x00)  # DATA PHASE ERROR
MISMATCH: Final = Sense(Key.MISCOMPARE, 0x1D, 0x00)  # MISCOMPARE DURING VERIFY OPERATION

_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_REFUSED: Final = {errno.EROFS, errno.EPERM, errno.EACCES}


class Check(Exception):
    """A command ends with CHECK CONDITION and this sense."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(sense)
        self.sense = sense


def of_error(error: BaseException, *, reading: bool) -> Sense:
    """What a failed operation on the backing is to the host. Linux makes ENOSPC of NO_SPACE again."""
    number = error.errno if isinstance(error, OSError) else None
    if reading:
        return READ_ERROR
    return NO_SPACE if number in _FULL else WRITE_PROTECTED if number in _REFUSED else WRITE_ERROR
