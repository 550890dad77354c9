"""A wire between a port of the host and who comes to it: it can be cut and mended, and lose capabilities on the way."""

import contextlib
import socket
import threading

from usbferry.protocols.usbredir.messages import Capability

HELLO_HEAD = 12 + 64  # the short header and the version; words of capabilities follow


class Wire:
    """Who comes to `self.port` reaches `port` of the loopback, or of 127.0.0.1 as a guest has it forwarded.

    With `lost`, neither side hears of the other that it has this capability of usbredir.
    """

    def __init__(self, port: int, lost: Capability | None = None) -> None:
        self._far = port
        self._lost = lost
        self._ends: list[socket.socket] = []
        self._carriers: list[threading.Thread] = []
        self.port = 0
        self.passed = 0  # bytes, both ways
        self.mend()

    def cut(self) -> None:
        """End every connection, with no good-bye, and let nobody in until it is mended."""
        self._hang_up(self._listener)
        self._acceptor.join()
        self._listener.close()
        for end in self._ends:
            self._hang_up(end)
        for thread in self._carriers:
            thread.join()
        self._ends, self._carriers = [], []

    close = cut

    def mend(self) -> None:
        """Listen, where it did before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                thread = threading.Thread(target=self._carry, args=(near,), daemon=True)
                self._ends.append(near)
                self._carriers.append(thread)
                thread.start()

    def _carry(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._far)) as far:
            back = threading.Thread(target=self._carry_one_way, args=(far, near), daemon=True)
            back.start()
            self._carry_one_way(near, far)
            back.join()

    def _carry_one_way(self, source: socket.socket, target: socket.socket) -> None:
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            if self._lost is not None:
                target.sendall(self._without(_hello(source), self._lost))
            while data := source.recv(1 << 18):
                self.passed += len(data)
                target.sendall(data)
        for end in (source, target):
            self._hang_up(end)

    @staticmethod
    def _hang_up(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _without(hello: bytes, capability: Capability) -> bytes:
        word, bit = divmod(capability, 32)
        at = HELLO_HEAD + 4 * word
        said = int.from_bytes(hello[at : at + 4], "little")
        return hello[:at] + (said & ~(1 << bit)).to_bytes(4, "little") + hello[at + 4 :]


def _hello(source: socket.socket) -> bytes:
    data = source.recv(HELLO_HEAD, socket.MSG_WAITALL)
    return data + source.recv(int.from_bytes(data[4:8], "little") + 12 - HELLO_HEAD, socket.MSG_WAITALL)
