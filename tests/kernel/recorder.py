"""A TCP proxy that remembers the USB/IP that passed, message by message, and writes a capture that Wireshark opens."""

import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import NamedTuple

from tests import pcap
from tests.pcap import Piece
from usbferry.protocols.record import Record
from usbferry.protocols.usbip.messages import (
    VERSION,
    CmdSubmit,
    CmdUnlink,
    Command,
    DeviceRecord,
    ImportRequest,
    InterfaceRecord,
    IsoDescriptor,
    Op,
    OpHeader,
    RetSubmit,
    RetUnlink,
)


class Message(NamedTuple):
    """One message as we decode it."""

    piece: Piece  # the one that completed it
    kind: str  # name of its Op or Command, whose numbers overlap
    head: Record
    data: bytes  # all of it


class Recorder:
    """Stands between clients and the server at `port` of the loopback; clients come to `self.port`."""

    def __init__(self, port: int) -> None:
        self._pieces: list[Piece] = []  # in the order of their passing
        self._server = port
        self._lock = threading.Lock()
        self._carriers: list[threading.Thread] = []
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def close(self, limit: float = 20) -> None:
        """Accept no more, and wait until those that came have ended. One that does not is an error, and is ended here:
        after a test that failed, who came is there for as long as its guest is.
        """
        if self._acceptor.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
        self._listener.close()
        deadline = time.monotonic() + limit
        for thread in self._carriers:
            thread.join(max(0, deadline - time.monotonic()))
        if still := sum(thread.is_alive() for thread in self._carriers):
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            raise AssertionError(f"{still} connections had not ended after {limit:g} s")

    def messages(self) -> list[Message]:
        """Every message, in the order of their passing. The last of a connection may be incomplete: it is left out."""
        found: list[Message] = []
        unread: dict[tuple[int, bool], bytearray] = {}
        in_transfers: set[tuple[int, int]] = set()  # connection, seqnum
        for piece in self._pieces:
            buffer = unread.setdefault((piece.connection, piece.from_server), bytearray())
            buffer += piece.data
            while (message := _message(piece, bytes(buffer), in_transfers)) is not None:
                del buffer[: len(message.data)]
                found.append(message)
        return found

    def write(self, path: Path) -> None:
        """A pcap file, each message in segments of its own.

        Wireshark 4.0 takes a failed RET_SUBMIT to fill the rest of its segment.
        """
        ends = [(piece, b"") for piece in self._pieces if not piece.data]
        said = [(message.piece, message.data) for message in self.messages()]
        segments = [piece._replace(data=data) for piece, data in said + ends]
        pcap.write_tcp(path, sorted(segments, key=lambda piece: piece.seconds), self._server)

    def write_pieces(self, path: Path) -> None:
        """A pcap file of what passed, as it came, whatever protocol it is."""
        pcap.write_tcp(path, self._pieces, self._server)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        number = 0
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._ends += (client, server)
                self._carriers.append(threading.Thread(target=self._carry, args=(number, client, server), daemon=True))
                self._carriers[-1].start()
                number += 1

    def _carry(self, number: int, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._carry_one_way, args=(number, True, server, client), daemon=True)
        with client, server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back.start()
            self._carry_one_way(number, False, client, server)
            back.join()

    def _carry_one_way(self, number: int, from_server: bool, source: socket.socket, target: socket.socket) -> None:
        """Remember first, pass on then: an answer never comes before what it answers."""
        data = b"first"
        while data:
            try:
                data = source.recv(1 << 18)
            except ConnectionError:
                data = b""
            with self._lock:
                self._pieces.append(Piece(number, from_server, data, time.time()))
            with contextlib.suppress(OSError):
                target.sendall(data) if data else target.shutdown(socket.SHUT_WR)


def _message(piece: Piece, data: bytes, in_transfers: set[tuple[int, int]]) -> Message | None:
    """The first message of `data`, when all of it is there."""
    if len(data) < OpHeader.SIZE:
        return None
    if int.from_bytes(data[:2], "big") == VERSION:
        head: Record = OpHeader.parse(data)
        kind: Op | Command = Op(head.code)
        size = _operation_size(kind, head.status, data)
    elif len(data) < CmdSubmit.SIZE:
        return None
    else:
        kind = Command(int.from_bytes(data[:4], "big"))
        head = _HEADS[kind].parse(data)
        size = CmdSubmit.SIZE
        key = (piece.connection, head.seqnum)
        if kind is Command.CMD_SUBMIT:
            size += 0 if head.direction else head.length
            if head.direction:
                in_transfers.add(key)
        elif kind is Command.RET_SUBMIT and key in in_transfers:
            size += head.actual
        if kind in (Command.CMD_SUBMIT, Command.RET_SUBMIT):
            size += max(0, head.packets) * IsoDescriptor.SIZE
    return Message(piece, kind.name, head, data[:size]) if len(data) >= size else None


_HEADS: dict[Command, type[Record]] = {
    Command.CMD_SUBMIT: CmdSubmit,
    Command.CMD_UNLINK: CmdUnlink,
    Command.RET_SUBMIT: RetSubmit,
    Command.RET_UNLINK: RetUnlink,
}


def _operation_size(kind: Op, status: int, data: bytes) -> int:
    if kind is Op.REQ_IMPORT:
        return OpHeader.SIZE + ImportRequest.SIZE
    if kind is Op.REP_IMPORT and not status:
        return OpHeader.SIZE + DeviceRecord.SIZE
    if kind is not Op.REP_DEVLIST:
        return OpHeader.SIZE
    size = OpHeader.SIZE + 4
    for _ in range(int.from_bytes(data[OpHeader.SIZE : size], "big")):
        if len(data) < size + DeviceRecord.SIZE:
            return len(data) + 1
        size += DeviceRecord.SIZE + DeviceRecord.parse(data, size).interfaces * InterfaceRecord.SIZE
    return size
