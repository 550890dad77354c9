"""ferry version 1 on the wire: calls, layouts, codes. Integers are big endian, setup and descriptors as USB has them.

    call      identifier 4 | number 1 | endpoint 1 | flags 2 | body
    reply     identifier 4 | status 4 | body

On a stream each of these follows a record marker (`framing`). A reply does not say what it answers: its caller knows by
the identifier. § are the sections of docs/protocols/ferry.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum, IntFlag
from struct import Struct, unpack_from
from typing import Annotated, Final

from ...usb.setup import (
    CLEAR_ENDPOINT_FEATURE,
    SET_CONFIGURATION,
    SET_INTERFACE,
    Setup,
    is_clear_halt,
    is_port_reset,
)
from ...usb.transfer import Transfer
from ...usb.types import Status
from ..events import Refusal
from ..record import BIG, Record, i32, record, u8, u16, u32

VERSION: Final = 1
PORT: Final = 32740
TOKEN_BYTES: Final = 16
INSTANCE_BYTES: Final = 8
SILENT_HEARTBEATS: Final = 3  # after as many without a word from the other side the transport is lost

# Identifiers (§4.2). Those of a session count up by one; bit 31 marks the calls that belong to the transport alone.
IDENTIFIERS: Final = 1 << 31  # of a session, before they begin again at 0
MASK: Final = IDENTIFIERS - 1
TRANSPORT: Final = 1 << 31
FIRST: Final = 1  # of every session

token16 = Annotated[bytes, "16s"]
instance8 = Annotated[bytes, "8s"]
setup8 = Annotated[bytes, "8s"]


class Call(IntEnum):
    """Call numbers. 1 to 9 are draft 1's, the others are ours."""

    VERSION = 1  # which version is spoken, and what the target grants
    LIST = 2  # the devices there are
    CLAIM = 3  # one of them, for this controller alone
    RELEASE = 4  # gives it back
    CONTROL = 5  # a control transfer
    BULK = 6  # a bulk transfer; draft 1's "submit data"
    ISOCHRONOUS = 7  # an isochronous transfer
    INTERRUPT = 8  # an interrupt transfer
    UNLINK = 9  # asks for the end of a transfer
    RESET = 10  # resets the device's port
    SET_CONFIGURATION = 11
    SET_INTERFACE = 12
    CLEAR_HALT = 13
    SUSPEND = 14
    WAKE = 15  # resumes a suspended device
    ALLOC_STREAMS = 16
    FREE_STREAMS = 17
    DESCRIBE = 18  # what the claimed device is now
    WATCH = 19  # answered when something changes
    RESUME = 20  # goes on with a session on this transport
    HEARTBEAT = 21  # a sign of life, and which replies have come
    HOLD = 22  # answered when the target ends the claim
    PART = 255  # not a call: a piece of one that is longer than a record


SESSION_CALLS: Final = frozenset(range(Call.RELEASE, Call.WATCH))
TRANSPORT_CALLS: Final = frozenset(Call) - SESSION_CALLS - {Call.PART}


class Code(IntEnum):
    """What became of a call. 0 to 3 are draft 1's. From TRANSFER on it is a transfer that failed, not the call."""

    OK = 0
    UNKNOWN_CALL = 1  # this target has no such call
    UNKNOWN_DEVICE = 2  # it has no such device
    BUSY = 3  # somebody else has it, or this transport has another one
    NOT_CLAIMED = 4  # a call of a session where there is none
    IN_PROGRESS = 5  # not final: the call was received, its reply will come
    PART = 6  # not final: a piece of a reply that is longer than a record
    NO_SUCH_CALL = 7  # what was to be unlinked has been answered, or never was
    FORGOTTEN = 8  # a duplicate of what was answered and acknowledged
    NO_SESSION = 9  # nothing to resume: it ended, or the target was started again
    NO_COMMON_VERSION = 10
    UNAVAILABLE = 11  # not now: the target closes, or is full
    NOT_OPENED = 12  # the device is there and could not be opened
    MALFORMED = 13  # the body does not fit its call


TRANSFER: Final = 256  # plus a Status: total both ways, whatever Status grows by

REFUSALS: Final = {
    Refusal.NOT_FOUND: Code.UNKNOWN_DEVICE,
    Refusal.BUSY: Code.BUSY,
    Refusal.FAILED: Code.NOT_OPENED,
    Refusal.UNAVAILABLE: Code.UNAVAILABLE,
}
_CALL_FAILED: Final = {Code.NOT_CLAIMED: Status.GONE, Code.MALFORMED: Status.INVALID, Code.BUSY: Status.BUSY}


def code_of(status: int) -> int:
    """The status on the wire of a transfer that ended so."""
    return TRANSFER + status if status else 0


def status_of(code: int) -> Status:
    """How a transfer ended that was answered so; FAILED for a code that no table has."""
    if code == Code.OK:
        return Status.OK
    if TRANSFER < code <= TRANSFER + max(Status):
        return Status(code - TRANSFER)
    return _CALL_FAILED.get(code, Status.FAILED)  # type: ignore[call-overload, no-any-return]


class WireFlags(IntFlag):
    """Bits of the flags of a submit: those of usbfs (USBDEVFS_URB_*, include/uapi/linux/usbdevice_fs.h), and ours."""

    SHORT_NOT_OK = 0x0001
    ISO_ASAP = 0x0002
    ZERO_PACKET = 0x0040
    NO_INTERRUPT = 0x0080  # means nothing here
    RESTART = 0x0100  # ours: the first of its queue that was sent after the news that the queue stopped
    STREAM = 0x0200  # ours: a stream identifier stands before the data


DEVICE_FLAGS: Final = int(WireFlags.SHORT_NOT_OK | WireFlags.ISO_ASAP | WireFlags.ZERO_PACKET)


class Capability(IntFlag):
    """What a target can do besides; a controller that does not say a bit is not bothered with it."""

    SESSIONS = 1
    WATCH = 2
    STREAMS = 4
    SUSPEND = 8


CAPABILITIES: Final = Capability.SESSIONS | Capability.WATCH | Capability.STREAMS | Capability.SUSPEND


@record(BIG)
class CallHeader(Record):
    """Opens every call."""

    identifier: u32
    number: u8
    endpoint: u8  # address with the direction bit; 0 where the call has none
    flags: u16


@record(BIG)
class ReplyHeader(Record):
    """Opens every reply."""

    identifier: u32
    status: u32


@record(BIG)
class VersionCall(Record):
    """Begins the body of VERSION; as many versions as `count` follow, each u32."""

    capabilities: u32
    count: u32


@record(BIG)
class VersionReply(Record):
    """What a target promises on this transport."""

    version: u32
    capabilities: u32
    instance: instance8  # another one after the target was started again
    heartbeat: u16  # seconds between heartbeats
    grace: u16  # seconds that a session waits for its controller
    window_calls: u32
    window_bytes: u32
    transfer_bytes: u32  # of the largest transfer


@record(BIG)
class Part(Record):
    """Follows the header of a PART, before its bytes."""

    total: u32  # bytes of the whole, from its second word on
    offset: u32


@record(BIG)
class Interrupt(Record):
    """Begins the body of INTERRUPT."""

    length: u32
    interval: u32


@record(BIG)
class Isochronous(Record):
    """Begins the body of ISOCHRONOUS; as many lengths as `count` follow, each u32."""

    interval: u32
    start_frame: i32
    count: u32


@record(BIG)
class IsochronousReply(Record):
    """Begins the body of its reply; as many IsoResult as `count` follow."""

    start_frame: i32
    count: u32


@record(BIG)
class IsoResult(Record):
    """What became of one packet."""

    status: u32
    actual: u32


_RESULT_BYTES: Final = IsoResult.SIZE


def cost(transfer: Transfer) -> int:
    """What a transfer takes of the window's bytes (§9)."""
    return transfer.length + (_RESULT_BYTES * len(transfer.packets) if transfer.packets else 0)


def version_call(capabilities: int, versions: Sequence[int]) -> bytes:
    """The body of VERSION."""
    return VersionCall(capabilities, len(versions)).pack() + words(versions)


def words(values: Iterable[int]) -> bytes:
    """As many u32."""
    values = tuple(values)
    return Struct(f">{len(values)}I").pack(*values)


def parse_words(body: memoryview, offset: int, count: int) -> tuple[int, ...]:
    """`count` u32 that end a body. Raises ValueError where that is not so."""
    if len(body) - offset != 4 * count:
        raise ValueError(f"{len(body) - offset} bytes where {count} words should be")
    return unpack_from(f">{count}I", body, offset)


def explicit_call(setup: Setup) -> tuple[Call, bytes] | None:
    """The call that a control transfer is better said by, and its body."""
    kind = (setup.request_type, setup.request)
    if is_port_reset(setup):
        return Call.RESET, b""
    if kind == SET_CONFIGURATION and _plain(setup, index=0):
        return Call.SET_CONFIGURATION, bytes((setup.value,))
    if kind == SET_INTERFACE and _plain(setup, index=0xFF):
        return Call.SET_INTERFACE, bytes((setup.index, setup.value))
    if is_clear_halt(setup) and _plain(setup, index=0xFF):
        return Call.CLEAR_HALT, bytes((setup.index,))
    return None


def _plain(setup: Setup, index: int) -> bool:
    return setup.value <= 0xFF and setup.index <= index and not setup.length


def standard_request(number: int, body: memoryview) -> Setup:
    """The control transfer that an explicit call stands for. Raises ValueError for a body of another size."""
    match number, *body:
        case Call.SET_CONFIGURATION, value:
            return Setup(*SET_CONFIGURATION, value=value)
        case Call.SET_INTERFACE, interface, alternate:
            return Setup(*SET_INTERFACE, value=alternate, index=interface)
        case Call.CLEAR_HALT, endpoint:
            return Setup(*CLEAR_ENDPOINT_FEATURE, index=endpoint)
    raise ValueError(f"{len(body)} bytes in call {number}")
