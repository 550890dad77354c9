"""libusb's own file descriptors, all behind one that an event loop can watch: epoll's.

They are those of its devices, which tell that a transfer has ended, and of what libusb sends itself. They come and go
in whatever thread opens and closes a device. Linux has both; elsewhere libusb's events are a thread's affair.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Descriptors:
    """Those of one libusb context, from now to `close`."""

    def __init__(self, lib: Any, context: Any, refused: Callable[[], None]) -> None:
        """`refused` is called, in any thread, for one that cannot be watched. Raises OSError where none can."""
        if not hasattr(select, "epoll"):
            raise OSError("no epoll")
        self._epoll = select.epoll()
        self._refused = refused
        self._callbacks = lib.libusb_pollfd_added_cb_p(self._add), lib.libusb_pollfd_removed_cb_p(self._remove)
        lib.libusb_set_pollfd_notifiers(context, *self._callbacks, None)
        found = lib.libusb_get_pollfds(context)
        at = 0
        while found and found[at]:
            self._add(found[at].contents.fd, found[at].contents.events)
            at += 1
        lib.libusb_free_pollfds(found)

    def fileno(self) -> int:
        """Ready to be read when any of them has something for libusb."""
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()

    def _add(self, fd: int, events: int, _: object = None) -> None:
        try:
            self._epoll.register(fd, events)  # the same bits as poll's
        except OSError:  # a plain file, as a test may have
            self._refused()

    def _remove(self, fd: int, _: object = None) -> None:
        with suppress(OSError, ValueError):  # it was refused, or we are closed
            self._epoll.unregister(fd)
