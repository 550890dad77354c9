"""A virtual device that is plugged in for the length of a test, and every way for a host to have it.

    test ---- device, faults, unplug ----> VirtualDevice <---- USB/IP, usbredir ---- pyusb, a program, a kernel, QEMU
                                              (it lives in the loop of `local.sync`, and so in no test's way)

A test may be a plain function or a coroutine: what it does here takes no time worth waiting for, but for `run` and
`wait_until`, which a coroutine has in a thread: `await asyncio.to_thread(device.wait_until, ...)`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast, overload

from ..backends.virtual import VirtualSource
from ..cli.run import environment
from ..device import Source
from ..devices.clock import VirtualClock
from ..devices.faults import Faults
from ..devices.virtual import VirtualDevice
from ..local import sync
from ..registry import load_exporter, open_source
from ..server.catalog import Catalog
from ..server.listen import Server, serving
from .journal import HeardSource, Journal, Passed

if TYPE_CHECKING:
    from ..local.pyusb import Backend

D = TypeVar("D", bound=VirtualDevice)
T = TypeVar("T")
SHOWN: Final = 30  # transfers and events in the report of a test that failed
_open: Final[dict[int, Plugged[Any]]] = {}  # those that are plugged in, the oldest first
_LOOK_SECONDS: Final = 0.02  # between two looks of `wait_until`, if nothing happens


class Plugged(Generic[D]):
    """A device that is plugged in until `close`: its hosts' addresses, and what a test does to it meanwhile."""

    def __init__(self, what: D | str) -> None:
        """A device, or the address of one. Raises ValueError for an address that makes no sense, or DeviceError."""
        self.journal = Journal()
        self._inner = _source_of(what)
        self.title = what if isinstance(what, str) else type(what).__name__  # for people
        if isinstance(self._inner, VirtualSource):
            self._inner.device.faults.noted = lambda fault: self.journal.note(f"fault: {fault.kind.value}")
        self._ended = ExitStack()
        try:
            sync.run(self._begin())
        except BaseException:
            sync.run(self._inner.close())
            raise
        _open[id(self)] = self

    # -- its hosts ----------------------------------------------------------------------------------------------------

    @property
    def usbip(self) -> str:
        """Its address: for `usbferry.open`, `usbferry.aio.open`, `usbferry attach`, and all that takes addresses."""
        return self._usbip

    def open(self) -> sync.Handle:
        """Use it as a host, by `usbferry.open`. It is given back at the end of the test, if it was not before."""
        return self._ended.enter_context(sync.open(self.usbip))

    def pyusb(self, *, default: bool = False) -> Backend:
        """The device for pyusb: `usb.core.find(backend=device.pyusb())`. Raises ImportError where there is no pyusb.

        With `default`, a plain `usb.core.find()` of this process has this device and no other, until the end of the
        test: for programs that are tested as they are.
        """
        from .. import pyusb_backend

        backend = pyusb_backend(self.usbip)
        self._ended.callback(backend.close)
        if default:
            self._make_default(backend)
        return backend

    def run(
        self,
        *program: str | os.PathLike[str],
        timeout: float = 60.0,
        check: bool = True,
        input: str | None = None,
        env: Mapping[str, str] = {},
        cwd: str | os.PathLike[str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of pyusb, unchanged, that finds this device and no other; as `usbferry run` does.

        A program that is a file `.py` is run by this Python, and programs beside this Python are found first. What it
        prints is in `stdout` and `stderr`. Raises AssertionError when it fails, unless `check` is False, and
        subprocess.TimeoutExpired.
        """
        words = [os.fspath(word) for word in program]
        if words and words[0].endswith(".py"):
            words.insert(0, sys.executable)
        done = subprocess.run(
            words,
            timeout=timeout,
            text=True,
            capture_output=True,
            cwd=cwd,
            env={**self.environment, **env},
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr or done.stdout}")
        return done

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with which Python programs that use pyusb find this device and no other."""
        here = str(Path(sys.executable).parent)
        return {
            **environment((self.usbip,)),
            "PATH": os.pathsep.join((here, os.environ.get("PATH", os.defpath))),
        }

    def qemu(self) -> list[str]:
        """What plugs it into a QEMU that has a USB controller, such as one with `-device qemu-xhci`."""
        host, port = sync.run(self._listen("usbredir"))
        name = f"usbferry-{port}"
        return ["-chardev", f"socket,id={name},host={host},port={port}", "-device", f"usb-redir,chardev={name}"]

    # -- the test -----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> D:
        """The device itself. Whatever is read, set or called takes place where it lives; coroutines are waited for."""
        return cast(D, _There(self.call, self._device))

    @property
    def faults(self) -> Faults:
        """What it does wrong from now on: `faults.stall(0x81, after=2)`, `faults.late(0x81, seconds=1)`."""
        return cast(Faults, _There(self.call, lambda: self._device().faults))

    def call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call a function where the device lives: in its event loop, between two transfers."""
        if asyncio._get_running_loop() is self._loop:
            return function(*arguments, **named)
        done: T = sync.run(_called(function, *arguments, **named))
        return done

    def unplug(self, *, away: float | None = None) -> None:
        """Pull it out, whatever its host does; it is back `away` seconds later, or never."""
        self.call(self._device().vanish, away=away)

    def wait_until(self, condition: Callable[[D], object], timeout: float = 10.0) -> None:
        """Wait for `condition(device)`, asked where the device lives. Raises TimeoutError."""
        sync.run(self._wait_until(cast(Callable[[VirtualDevice], object], condition), timeout))

    @property
    def transfers(self) -> list[Passed]:
        """The last thousand transfers of its hosts: `str` of one is a sentence, `data` the first 4 KiB that moved."""
        return self.journal.transfers

    def report(self, count: int = SHOWN) -> str:
        """The last `count` transfers and events in words, the faults that happened among them."""
        return "\n".join(self.journal.lines(count) or ["no host has used it"])

    # -- its life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Pull it out for good. May be called twice."""
        _open.pop(id(self), None)
        try:
            self._ended.close()
        finally:
            sync.run(self._end())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _device(self) -> D:
        if not isinstance(self._inner, VirtualSource):
            raise TypeError(f"{self._inner.address} is no virtual device, so a test cannot reach into it")
        return cast(D, self._inner.device)

    async def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        started: asyncio.Future[None] = self._loop.create_future()
        self._serving = self._loop.create_task(self._serve(started))
        await asyncio.wait((started, self._serving), return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            self._serving.result()

    async def _serve(self, started: asyncio.Future[None]) -> None:
        async with serving(Catalog()) as server:
            self._server: Server = server
            offers = await server.offer(HeardSource(self._inner, self.journal))
            if len(offers) != 1:
                raise ValueError(f"{self._inner.address} has {len(offers)} devices, a test has one at a time")
            host, port = await self._listen("usbip")
            self._usbip = f"usbip://{host}:{port}/{offers[0].info.name}"
            started.set_result(None)
            await self._stop.wait()

    async def _listen(self, protocol: str) -> tuple[str, int]:
        exporter = load_exporter(protocol)
        if protocol == "usbredir":
            exporter = partial(exporter, name="")
        [(host, port)] = await self._server.listen("127.0.0.1", 0, exporter)
        return host, port

    async def _end(self) -> None:
        self._stop.set()
        await self._serving

    async def _wait_until(self, condition: Callable[[VirtualDevice], object], timeout: float) -> None:
        """Looks at once when something happened, and now and then for what happens without a transfer."""
        news = asyncio.Event()
        self.journal.changed = news.set
        end = self._loop.time() + timeout
        while not condition(self._device()):
            if self._loop.time() >= end:
                raise TimeoutError(f"{self.title}: what was waited for did not come within {timeout:g} s")
            news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await news.wait()

    def _make_default(self, backend: Backend) -> None:
        """As `local/hook/sitecustomize.py` does for `usbferry run`."""
        import usb.backend.libusb1 as hooked

        former = hooked.get_backend
        hooked.get_backend = lambda find_library=None: backend
        self._ended.callback(setattr, hooked, "get_backend", former)


class PlugIn:
    """What pytest's fixture `usb_device` is: it plugs devices in, which are pulled out at the end of the test."""

    def __init__(self) -> None:
        self._plugged: list[Plugged[Any]] = []

    @overload
    def __call__(self, what: str) -> Plugged[VirtualDevice]: ...
    @overload
    def __call__(self, what: D) -> Plugged[D]: ...
    def __call__(self, what: VirtualDevice | str) -> Plugged[Any]:
        """Plug in a device, by its address or as it is, until the end of the test."""
        one = Plugged(what)
        self._plugged.append(one)
        return one

    @property
    def plugged(self) -> tuple[Plugged[Any], ...]:
        """Those that it plugged in."""
        return tuple(self._plugged)

    def close(self) -> None:
        """Pull all of them out, the last one first."""
        with ExitStack() as stack:
            for one in self._plugged:
                stack.callback(one.close)


def sections(plug: PlugIn | None) -> Iterator[tuple[str, str]]:
    """What the report of a failure shows: for each device a title, and what its hosts did.

    The devices are those of the test, which may be closed by now, and those that fixtures of another scope have open.
    """
    of_the_test = plug.plugged if plug is not None else ()
    for one in dict.fromkeys((*of_the_test, *_open.values())):
        yield f"USB transfers of {one.title}", one.report()


@overload
def plugged(what: str) -> Plugged[VirtualDevice]: ...
@overload
def plugged(what: D) -> Plugged[D]: ...
def plugged(what: VirtualDevice | str) -> Plugged[Any]:
    """A device for the length of a `with`: for other frameworks, and for fixtures of another scope."""
    return Plugged(what)


class _There:
    """Stands for something in the device's loop: what is read, set or called is so there."""

    __slots__ = ("_call", "_target")

    def __init__(self, call: Callable[..., Any], target: Callable[[], Any]) -> None:
        object.__setattr__(self, "_call", call)
        object.__setattr__(self, "_target", target)

    def __getattr__(self, name: str) -> Any:
        value = self._call(lambda: getattr(self._target(), name))
        if inspect.isroutine(value):
            return partial(self._call, value)
        if isinstance(value, Faults | VirtualClock):
            return _There(self._call, lambda: getattr(self._target(), name))
        return value

    def __setattr__(self, name: str, value: object) -> None:
        self._call(lambda: setattr(self._target(), name, value))

    @property  # type: ignore[misc]  # for `isinstance`, as `unittest.mock` and `weakref.proxy` have it
    def __class__(self) -> Any:
        return type(self._target())

    def __repr__(self) -> str:
        return repr(self._target())


async def _called(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    result = function(*arguments, **named)
    return await result if inspect.isawaitable(result) else result


def _source_of(what: object) -> Source:
    if isinstance(what, str):
        return open_source(what)
    if not isinstance(what, VirtualDevice):
        raise TypeError(f"a virtual device or its address is plugged in, not {what!r}")
    return VirtualSource(f"virtual:{type(what).__name__}", what)
