"""Captures that Wireshark opens, made of what tests saw pass. Source: draft-ietf-opsawg-pcap; RFC 791, 768, 9293."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_SEGMENT = 32 * 1024  # bytes of a written segment at most; an IP packet holds less than 64 KiB
_SYN, _FIN, _ACK = 0x02, 0x01, 0x10
_LINKTYPE_RAW = 101  # packets start with their IP header
_CLIENT, _SERVER = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])
_TCP, _UDP = 6, 17
_CLIENT_PORTS = 40000  # plus the number of the connection


class Piece(NamedTuple):
    """Some bytes that passed, or the end of their direction where there are none."""

    connection: int
    from_server: bool
    data: bytes
    seconds: float


class _File:
    def __init__(self, server: int) -> None:
        self.packets = [struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, _LINKTYPE_RAW)]
        self._server = server

    def ports(self, piece: Piece) -> list[int]:
        """Source, target."""
        ports = [_CLIENT_PORTS + piece.connection, self._server]
        return ports[::-1] if piece.from_server else ports

    def add(self, piece: Piece, protocol: int, data: bytes) -> None:
        """One IP packet. Checksums are 0, as with offloading."""
        ends = [_SERVER, _CLIENT] if piece.from_server else [_CLIENT, _SERVER]
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 0, 0x4000, 64, protocol, 0) + b"".join(ends)
        seconds, rest = divmod(piece.seconds, 1)
        self.packets.append(struct.pack("=IIII", int(seconds), int(rest * 1e6), *[len(ip + data)] * 2) + ip + data)

    def write(self, path: Path) -> None:
        path.write_bytes(b"".join(self.packets))


def write_tcp(path: Path, pieces: Iterable[Piece], server: int) -> None:
    """Connections to the port `server`, each piece in segments of its own."""
    file = _File(server)
    sent: dict[tuple[int, bool], int] = {}  # sequence numbers

    def write(piece: Piece, from_server: bool, flags: int, data: bytes = b"") -> None:
        piece = piece._replace(from_server=from_server)
        ours, theirs = (sent.get((piece.connection, way), 0) for way in (from_server, not from_server))
        tcp = struct.pack(">HHIIBBHHH", *file.ports(piece), ours, theirs, 5 << 4, flags, 65535, 0, 0)
        file.add(piece, _TCP, tcp + data)
        sent[piece.connection, from_server] = ours + len(data) + bool(flags & (_SYN | _FIN))

    for piece in pieces:
        if (piece.connection, False) not in sent:
            for from_server, flags in ((False, _SYN), (True, _SYN | _ACK), (False, _ACK)):
                write(piece, from_server, flags)
        for at in range(0, len(piece.data), _SEGMENT):
            write(piece, piece.from_server, _ACK, piece.data[at : at + _SEGMENT])
        if not piece.data:
            write(piece, piece.from_server, _FIN | _ACK)
    file.write(path)


def write_udp(path: Path, pieces: Iterable[Piece], server: int) -> None:
    """One datagram a piece. One that is longer than IP's may be is cut in the capture, so there should be none."""
    file = _File(server)
    for piece in pieces:
        file.add(piece, _UDP, struct.pack(">HHHH", *file.ports(piece), 8 + len(piece.data), 0) + piece.data)
    file.write(path)
