"""A device in the kernel's hands: directly and through a relay, how it ends, and that nothing is left open."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NoReturn

import pytest

from tests.backends.hand import DEVICE, Peer, bad_server, descriptors, hand_server
from tests.local.kernel import Kernel
from tests.protocols.usbip.wire import ECONNRESET, ENODEV, EPIPE, IN, OUT, op, ret_submit, ret_unlink, submit, unlink
from usbferry.backends import handover, remote
from usbferry.backends.virtual import VirtualSource
from usbferry.device import Busy, DeviceError, NotFound
from usbferry.local import vhci
from usbferry.local.attach import DETACHED, Attachment, Ended, attach
from usbferry.local.relay import Counted, Counts
from usbferry.local.vhci import FREE, USED, Record, Vhci
from usbferry.registry import load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.usb import build
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Speed, Status

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has vhci_hcd")

GET_DEVICE = "80 06 00 01 00 00 12 00"
RELAYED = 0x10002  # the devid of a relay's one device


@asynccontextmanager
async def attached(
    kernel: Kernel, address: str, name: str = "1-1", *, relay: bool = False
) -> AsyncIterator[Attachment]:
    source = open_source(address)
    try:
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            attachment = await attach(source, name, tasks, relay=relay, vhci=kernel.vhci)
            try:
                yield attachment
            finally:
                await attachment.detach()
    finally:
        await source.close()


async def open_and_fail(kernel: Kernel, address: str, name: str = "1-1") -> None:
    """What goes wrong, out of its group."""
    with pytest.raises(ExceptionGroup) as raised:
        async with attached(kernel, address, name):
            pass
    raise raised.value.exceptions[0]


def get_device(seqnum: int, devid: int) -> bytes:
    """The kernel asks for the device descriptor."""
    return submit(seqnum, IN, 0, 18, setup=bytes.fromhex(GET_DEVICE), devid=devid)


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


# -- directly ----------------------------------------------------------------------------------------------------------


async def test_a_servers_socket_is_the_kernels(kernel):
    async with hand_server(speed=Speed.FULL, bus=3, address=15) as server:
        async with attached(kernel, server.address) as attachment:
            port = kernel.ports[0]
            assert (attachment.port, attachment.device, attachment.is_relayed) == (0, "1-1", False)
            assert (port.state, port.speed, port.devid) == (USED, 2, 0x3000F)
            assert str(attachment.info) == "1-1 1209:0001 Hand Made"
            await port.says(get_device(900, 0x3000F))
            assert await port.hears(48 + 18) == ret_submit(900, data=server.table[1, 0])
        assert port.state == FREE


async def test_half_open_connections_will_be_found_by_the_kernel(kernel):
    async with hand_server() as server, attached(kernel, server.address):
        connection = kernel.ports[0].connection
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, probes, unanswered = (
            connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"))
            for name in ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT")
        )
        assert idle + interval * probes <= 15
        assert unanswered <= 15_000


async def test_what_follows_the_answer_to_the_import_is_the_kernels(kernel):
    early = ret_submit(1, data=b"abc")

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Peer(reader, writer).imported()
        writer.write(early)

    async with bad_server(script) as address, attached(kernel, address):
        assert await kernel.ports[0].hears(len(early)) == early


async def test_a_speed_that_the_server_has_no_word_for_is_read_from_the_device(kernel):
    """Linux's server says 0 of SuperSpeed+ devices, and the kernel would take that for an error."""
    table = descriptors(replace(DEVICE, usb=0x0320))
    async with hand_server(table, speed=Speed.UNKNOWN) as server, attached(kernel, server.address) as attachment:
        port = kernel.ports[attachment.port]
        assert (port.hub, port.speed) == ("ss", 5)
        await port.says(get_device(1, 0x10002))
        assert await port.hears(66) == ret_submit(1, data=table[1, 0])


@pytest.mark.parametrize(
    ("table", "text"),
    [(descriptors(), "does not say how fast"), ({(1, 0): bytes(17)}, "broken descriptors"), ({}, "broken descriptors")],
    ids=["usb2", "short", "stall"],
)
async def test_a_speed_that_cannot_be_known_is_an_error(kernel, table, text):
    async with hand_server(table, speed=Speed.UNKNOWN) as server:
        with pytest.raises(DeviceError, match=text):
            await open_and_fail(kernel, server.address)


async def test_a_server_that_resets_the_device_still_is_asked_again(kernel, monkeypatch):
    monkeypatch.setattr(remote, "BUSY_SECONDS", 0.001)
    asked = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            await reader.readexactly(40)
            writer.write(op(3, status=2))
        else:
            await Peer(reader, writer).imported()

    async with bad_server(script) as address, attached(kernel, address):
        assert asked == 3


async def test_a_device_that_stays_busy_is_an_error(kernel, monkeypatch):
    monkeypatch.setattr(remote, "BUSY_SECONDS", 0.001)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(40)
        writer.write(op(3, status=2))

    async with bad_server(script) as address:
        with pytest.raises(Busy, match=r"1-1 at 127.*somebody else uses it"):
            await open_and_fail(kernel, address)


@pytest.mark.parametrize(
    ("answer", "name", "text"),
    [
        pytest.param(op(3, status=4), "1-1", "the server has no such device", id="refused"),
        pytest.param(b"", "1-1", r"closed without an answer; does it speak USB/IP\?$", id="closed"),
        pytest.param(op(3)[:5], "1-1", "the connection was closed$", id="cut"),
        pytest.param(b"SSH-2.0-x\r\n", "1-1", "does not speak USB/IP, it says 'SSH-2.0-'; is the port", id="stranger"),
        pytest.param(op(5), "1-1", "broke usbip: answer 0x0005", id="another"),
        pytest.param(op(3, bytes(312)), "1-1", "the server gave ''", id="no-name"),
        pytest.param(b"", "1" * 32, "is no bus id", id="long"),
    ],
)
async def test_a_server_that_does_not_give_it_is_one_error(kernel, answer, name, text, monkeypatch):
    monkeypatch.setattr(remote, "LIST_SECONDS", 0.02)  # this one lists nothing

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(40)
        writer.write(answer)
        writer.close()

    async with bad_server(script) as address:
        with pytest.raises(DeviceError, match=text):
            await open_and_fail(kernel, address, name)


async def test_a_device_that_is_not_there_comes_with_those_that_are(kernel):
    async with serving(Catalog()) as server:
        await server.offer(open_source("virtual:zero"))
        [(host, port)] = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
        with pytest.raises(
            NotFound, match=r"the server has no such device; it has: 1-1 0525:a4a0 \(vendor specific\)$"
        ):
            await open_and_fail(kernel, f"usbip://{host}:{port}", "9-9")


async def test_a_server_that_is_silent_over_the_import_and_a_list_is_given_up(kernel, monkeypatch):
    monkeypatch.setattr(handover, "DOUBT_SECONDS", 0.02)
    monkeypatch.setattr(remote, "LIST_SECONDS", 0.02)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with bad_server(script) as address:
        with pytest.raises(DeviceError, match=r"did not answer within 0.02 s; does it speak USB/IP\?$"):
            await open_and_fail(kernel, address)


async def test_a_server_that_takes_long_over_the_import_is_waited_for(kernel, monkeypatch):
    """As usbipd-win, which restarts a driver; its list comes meanwhile."""
    monkeypatch.setattr(handover, "DOUBT_SECONDS", 0.01)
    listed = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readexactly(8))[2:4] == b"\x80\x05":
            writer.write(op(5) + bytes(4))
            listed.set()
        else:
            await listed.wait()
            await reader.readexactly(32)
            writer.write(op(3, status=3))

    async with bad_server(script) as address:
        with pytest.raises(DeviceError, match="the server could not open it, its log should say why"):
            await open_and_fail(kernel, address)


@pytest.mark.parametrize(
    ("host", "text"), [("127.0.0.1:1", "is a server running there"), ("no.such.invalid", "no conn")]
)
async def test_a_server_that_is_not_there_is_one_error(kernel, host, text):
    with pytest.raises(DeviceError, match=text):
        await open_and_fail(kernel, f"usbip://{host}")


async def test_a_full_kernel_keeps_no_connection(kernel):
    for port in kernel.ports:
        kernel.take(port.number)
    async with hand_server() as server:  # whose end waits for that
        with pytest.raises(Busy, match="ports of this kernel are in use"):
            await open_and_fail(kernel, server.address)


async def test_without_the_module_no_server_is_asked(tmp_path):
    async with hand_server() as server:
        kernel = Kernel(tmp_path)
        kernel.vhci = Vhci(tmp_path / "nothing")
        with pytest.raises(DeviceError, match=r"^there are no modules of Linux .* here"):
            await open_and_fail(kernel, server.address)
        assert server.hands.empty()


async def test_a_device_that_the_kernel_cannot_read_is_given_back(kernel, monkeypatch):
    monkeypatch.setattr(vhci, "ENUMERATE_SECONDS", 0.05)
    kernel.enumerates = False
    async with hand_server() as server:
        with pytest.raises(DeviceError, match="could not read the device"):
            await open_and_fail(kernel, server.address)
    assert kernel.ports[0].state == FREE


async def test_what_is_left_stays_with_the_kernel(kernel):
    async with hand_server() as server:
        source = open_source(server.address)
        async with asyncio.TaskGroup() as tasks:
            attachment = await attach(source, "1-1", tasks, vhci=kernel.vhci)
            attachment.leave()
        assert kernel.ports[0].state == USED
        await kernel.ports[0].says(get_device(1, 0x10002))
        assert len(await kernel.ports[0].hears(66)) == 66
        kernel.drop(0)


# -- its end -----------------------------------------------------------------------------------------------------------


async def test_a_lost_server_frees_the_port_and_is_not_taken_for_a_person(kernel):
    async with hand_server() as server, attached(kernel, server.address) as attachment:
        assert kernel.vhci.read_record(0) == Record("127.0.0.1", str(server.port), "1-1")
        (await server.hands.get()).transport.close()
        ended = await attachment.gone()
        assert (ended.by_hand, ended.reason) == (False, "the connection to 127.0.0.1 was closed")
        assert kernel.ports[0].state == FREE
        assert kernel.vhci.read_record(0) is None


@pytest.mark.parametrize("relay", [False, True])
async def test_detached_by_a_tool_it_was_a_person(kernel, relay):
    async with hand_server() as server, attached(kernel, server.address, relay=relay) as attachment:
        kernel.vhci.remove_record(0)
        kernel.vhci.detach(0)
        assert await attachment.gone() == DETACHED


@pytest.mark.parametrize("address", ["virtual:zero", "usbip"])
async def test_a_relay_that_the_kernel_drops_is_not_taken_for_a_person(kernel, address):
    """The kernel ends a connection over an answer it does not like, or for want of memory: nobody wished for that."""
    async with hand_server() as server:
        where, name = (server.address, "1-1") if address == "usbip" else (address, "")
        async with attached(kernel, where, name, relay=True) as attachment:
            kernel.drop(0)
            ended = await attachment.gone()
            assert (ended.by_hand, ended.reason) == (False, "the kernel dropped it; `dmesg` may say why")
            assert not kernel.vhci.has_record(0)
            assert kernel.ports[0].state == FREE


async def test_a_virtual_one_detached_by_a_tool_was_a_person(kernel):
    async with attached(kernel, "virtual:zero", "", relay=True) as attachment:
        assert kernel.vhci.has_record(0)
        kernel.vhci.remove_record(0)
        kernel.vhci.detach(0)
        assert await attachment.gone() == DETACHED


async def test_a_relay_that_ends_slowly_leaves_the_next_ones_record_alone(kernel, monkeypatch):
    """The next one's kernel-drop would be taken for a hand that detached it, and `keep` would stop."""
    may_close, close = asyncio.Event(), Counted.close

    async def slowly(device: Counted) -> None:
        await may_close.wait()
        await close(device)

    async with attached(kernel, "virtual:zero", "") as first, asyncio.TaskGroup() as tasks:
        monkeypatch.setattr(Counted, "close", slowly)
        kernel.drop(0)
        ending = tasks.create_task(first.gone())
        assert await vhci.until(lambda: not kernel.vhci.has_record(0), 10), "its own is kept while the device closes"
        async with attached(kernel, "virtual:disk?size=1M", "") as second:
            assert second.port == 0
            may_close.set()
            assert not (await ending).by_hand
            kernel.drop(0)
            assert await second.gone() == Ended("the kernel dropped it; `dmesg` may say why", by_hand=False)


async def test_without_a_record_it_counts_as_detached(kernel):
    (kernel.root / "var").write_text("in the way")
    async with attached(kernel, "virtual:zero", "") as attachment:
        kernel.drop(0)
        assert await attachment.gone() == DETACHED


async def test_detached_twice_and_after_its_end(kernel):
    async with hand_server() as server, attached(kernel, server.address) as attachment:
        await asyncio.gather(attachment.detach(), attachment.detach(), attachment.gone())
        assert await attachment.gone() == DETACHED
        kernel.take(0)
        await attachment.detach()
        assert kernel.ports[0].state == USED, "another's device was detached"


async def test_an_old_record_does_not_stay(kernel):
    kernel.vhci.write_record(0, Record("elsewhere", "3240", "9-9"))
    async with attached(kernel, "virtual:zero", ""):
        assert kernel.vhci.read_record(0) is None


async def test_an_unloaded_module_ends_it(kernel, monkeypatch):
    async with hand_server() as server, attached(kernel, server.address) as attachment:
        kernel.drop(0)
        shutil.rmtree(kernel.root / "sys")
        await attachment.detach()


# -- through a relay ---------------------------------------------------------------------------------------------------


async def test_a_virtual_device_needs_no_network(kernel):
    async with attached(kernel, "virtual:zero?speed=super", "") as attachment:
        port = kernel.ports[attachment.port]
        assert (attachment.is_relayed, port.hub, port.speed, port.devid) == (True, "ss", 5, RELAYED)
        await port.says(get_device(7, RELAYED) + submit(8, OUT, 1, None, bytes(1000), devid=RELAYED))
        assert await port.hears(48 + 18) == ret_submit(7, data=build.device(attachment.info.device))
        assert await port.hears(48) == ret_submit(8, actual=1000)
        assert attachment.counts == Counts(transfers=2, bytes_in=18, bytes_out=1000)


async def test_a_remote_device_through_a_relay_has_its_record_and_its_strings(kernel):
    async with hand_server() as server, attached(kernel, server.address, relay=True) as attachment:
        assert attachment.is_relayed
        assert kernel.vhci.read_record(0) == Record("127.0.0.1", str(server.port), "1-1")
        assert str(attachment.info) == "1-1 1209:0001 Hand Made"


async def test_stalls_and_errors_are_counted_and_cancels_are_not(kernel):
    async with hand_server() as server, attached(kernel, server.address, relay=True) as attachment:
        port, hand = kernel.ports[0], await server.hands.get()
        await port.says(submit(1, IN, 1, 64, devid=RELAYED) + submit(2, IN, 1, 64, devid=RELAYED))
        first, second = await hand.submit(), await hand.submit()
        hand.complete(first.tag, Completion(Status.STALL))
        assert await port.hears(48) == ret_submit(1, EPIPE)
        await port.says(unlink(3, 2, devid=RELAYED))
        await hand.cancel()
        hand.complete(second.tag, Completion(Status.CANCELLED))
        assert await port.hears(48) == ret_unlink(3, ECONNRESET)
        assert attachment.counts == Counts(transfers=2, errors=1)


async def test_when_the_remote_device_leaves_what_is_pending_ends_and_the_port_is_free(kernel):
    async with hand_server() as server, attached(kernel, server.address, relay=True) as attachment:
        port, hand = kernel.ports[0], await server.hands.get()
        await port.says(submit(1, IN, 1, 64, devid=RELAYED))
        await hand.submit()
        hand.transport.close()
        assert await attachment.gone() == Ended("the connection was closed", by_hand=False)
        assert await port.hears(48) == ret_submit(1, ENODEV)
        assert port.state == FREE


async def test_the_device_is_given_back_before_detach_returns(kernel):
    source = VirtualSource("virtual:zero")
    async with asyncio.TaskGroup() as tasks:
        attachment = await attach(source, "", tasks, vhci=kernel.vhci)
        assert source.device.is_open
        await attachment.detach()
        assert not source.device.is_open
    await source.close()


async def test_a_relay_for_a_full_kernel_gives_the_device_back(kernel):
    for port in kernel.ports:
        kernel.take(port.number)
    source = VirtualSource("virtual:zero")
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as tasks:
            await attach(source, "", tasks, vhci=kernel.vhci)
    assert isinstance(raised.value.exceptions[0], Busy)
    assert not source.device.is_open
    await source.close()


@pytest.mark.parametrize("what", ["usbferry.local.relay.socket.socketpair", "usbferry.local.attach.select.epoll"])
async def test_without_a_file_to_spare_the_device_is_given_back(kernel, monkeypatch, what):
    def none_left(*arguments: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    source = VirtualSource("virtual:zero")
    with monkeypatch.context() as scarce:
        scarce.setattr(what, none_left)
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as tasks:
                await attach(source, "", tasks, vhci=kernel.vhci)
    assert isinstance(raised.value.exceptions[0], OSError)
    assert not source.device.is_open
    await source.close()


async def test_a_relay_that_is_cancelled_gives_the_device_back(kernel):
    source = VirtualSource("virtual:zero")

    async def attach_and_stay() -> None:
        async with asyncio.TaskGroup() as tasks:
            await (await attach(source, "", tasks, vhci=kernel.vhci)).gone()

    async with asyncio.TaskGroup() as tasks:
        staying = tasks.create_task(attach_and_stay())
        await kernel.reaches(0, USED)
        staying.cancel()
    await kernel.reaches(0, FREE)
    assert not source.device.is_open
    await source.close()
