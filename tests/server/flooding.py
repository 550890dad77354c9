"""Importers that ask and never read, as a process, for `test_hostile`: each sends until nobody takes any more.

python -m tests.server.flooding PORT    says "stuck" when all of them are
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from threading import Thread

from tests.protocols.usbip import wire

MANY = 20_000  # messages made beforehand, and then sent again
STUCK_SECONDS = 1.0

# bus id -> the message of a number
FLOODS: dict[str, Callable[[int], bytes]] = {
    "1-2": lambda n: wire.submit(n, wire.IN, 1, 1 << 20),  # much
    "1-3": lambda n: wire.submit(n, wire.IN, 1, 0),  # many
    "1-4": lambda n: wire.unlink(n, n ^ 0x40000000),  # of nothing
    "1-5": lambda n: wire.submit(n, wire.IN, 3, 4096, iso=[(0, 1)] * 8),  # nonsense with a tail
    "1-6": lambda n: wire.submit(n, wire.OUT, 2, payload=b""),  # that nobody takes on the other side
}


def pour(port: int, busid: str, message: Callable[[int], bytes]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(wire.op_import(busid.encode()))
        reply = sock.recv(320, socket.MSG_WAITALL)
        bus, device = struct.unpack_from(">II", reply, 0x128)
        devid = (bus << 16 | device).to_bytes(4, "big")
        size = len(message(0))
        whole = bytearray(b"".join(message(n + 1) for n in range(MANY)))
        for at in range(0, len(whole), size):
            whole[at + 8 : at + 12] = devid
        sock.settimeout(STUCK_SECONDS)
        try:
            for lap in range(1 << 16):
                for at in range(0, len(whole) if lap else 0, size):
                    whole[at + 4 : at + 8] = (lap * MANY + at // size + 1).to_bytes(4, "big")
                sock.sendall(whole)
        except TimeoutError:
            pass
        stuck[busid] = sock.dup()


if __name__ == "__main__":
    stuck: dict[str, socket.socket] = {}  # kept open
    threads = [Thread(target=pour, args=(int(sys.argv[1]), *flood), daemon=True) for flood in FLOODS.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("stuck" if len(stuck) == len(FLOODS) else f"only {list(stuck)}", flush=True)  # noqa: T201
    sys.stdin.read()
