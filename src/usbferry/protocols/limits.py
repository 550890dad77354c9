"""The named limits of one connection. Whatever a peer sends, it costs no more than this.

Over `transfers` or `bytes_in_flight` a submit is answered with Status.NO_MEMORY and reading goes on, so that the cancel
which would free them is still read. The connection ends over what no honest peer does: OUT data of more than
`transfer_bytes`, more than `iso_packets` or `cancels` of one transfer.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """One connection's bounds; the defaults serve Linux, Windows and QEMU with room to spare."""

    transfer_bytes: int = 16 * MIB  # of one transfer; Linux usbfs stops at 16 MiB in all
    iso_packets: int = 1024  # of one transfer; USBIP_MAX_ISO_PACKETS, drivers/usb/usbip/usbip_common.h
    transfers: int = 2048  # waiting at the device at one time
    bytes_in_flight: int = 64 * MIB  # asked for or sent by those transfers
    cancels: int = 16  # of one transfer, that wait for its end; a host sends one
    early_cancels: int = 256  # cancels held for submits they overtook
    early_cancel_seconds: float = 5.0  # how long such a cancel is held
    handshake_seconds: float = 10.0  # from the connection to a whole request
    proof_seconds: float = 2.0  # on UDP, from the first call to one that only who got its reply can make
    devices_listed: int = 4096  # taken from a peer's list
    interfaces_listed: int = 32  # of one device in a peer's list; USB 2.0 §9.6.3 allows 255, Linux takes 32
    heartbeat_seconds: int = 5  # between signs of life, where a protocol has them; three that fail are a lost transport
    grace_seconds: int = 30  # that a claim waits for its importer to come back, where a protocol lets it


DEFAULT_LIMITS = Limits()
