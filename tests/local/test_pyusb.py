"""`usbferry.pyusb_backend`: what pyusb's own programs see of devices at the other end of a connection."""

import errno
import gc
import logging
import subprocess
import sys
import textwrap
import threading
import time
from array import array
from collections.abc import Callable, Iterator

import pytest
import usb.backend
import usb.core
import usb.util

import usbferry
from tests.local.serving import Served
from usbferry import aio
from usbferry.device import Busy, DeviceError, NotFound, Unavailable
from usbferry.local import bus, sync
from usbferry.local.shared_loop import LOOP
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Status


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.stop()


@pytest.fixture
def backend(served) -> Iterator[usb.backend.IBackend]:
    made = usbferry.pyusb_backend(f"{served.address}")
    yield made
    close(made)


def close(made: usb.backend.IBackend) -> None:
    gc.collect()  # the program's devices
    sync.run(made._bus.close())


@pytest.fixture
def device(backend) -> usb.core.Device:
    found = usb.core.find(idVendor=0x0525, backend=backend)
    assert found is not None
    return found


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def error_of(call: Callable[[], object]) -> tuple[type, int | None, int | None]:
    """The class, libusb's code and the errno of the error that a call raises."""
    with pytest.raises(usb.core.USBError) as caught:
        call()
    return type(caught.value), caught.value.backend_error_code, caught.value.errno


TIMEOUT = (usb.core.USBTimeoutError, -7, errno.ETIMEDOUT)
STALL = (usb.core.USBError, -9, errno.EPIPE)
GONE = (usb.core.USBError, -4, errno.ENODEV)
NOT_FOUND = (usb.core.USBError, -5, errno.ENOENT)
BUSY = (usb.core.USBError, -6, errno.EBUSY)
INVALID = (usb.core.USBError, -2, errno.EINVAL)


def test_it_has_all_of_pyusbs_methods(backend):
    ours = type(backend)
    wanted = [name for name, value in vars(usb.backend.IBackend).items() if callable(value) and name[0] != "_"]
    assert len(wanted) >= 25
    assert [name for name in wanted if getattr(ours, name) is getattr(usb.backend.IBackend, name)] == []


# -- what is there -----------------------------------------------------------------------------------------------------


def test_devices_are_found_as_any_others_are(backend):
    found = list(usb.core.find(find_all=True, backend=backend))
    assert [(d.bus, d.address, d.port_number, d.port_numbers, d.speed) for d in found] == [
        (1, 2, 1, (1,), usb.util.SPEED_HIGH),
        (1, 3, 2, (2,), usb.util.SPEED_HIGH),
    ]
    assert found[0].product == "Gadget Zero"
    assert found[0].serial_number == "0123456789.0123456789.0123456789"
    assert found[0].bcdUSB == 0x0200
    assert found[0].parent is None
    assert "CONFIGURATION 1" in str(found[0])
    assert list(usb.core.find(find_all=True, idVendor=0x1234, backend=backend)) == []


def test_descriptors_are_those_of_the_device(device):
    configuration = device[0]
    assert (configuration.wTotalLength, configuration.bNumInterfaces, configuration.bMaxPower) == (111, 1, 50)
    settings = list(configuration)
    assert [s.bAlternateSetting for s in settings] == [0, 1]
    assert [e.bEndpointAddress for e in settings[1]] == [0x81, 0x01, 0x82, 0x02, 0x83, 0x84, 0x03, 0x04]
    assert [e.wMaxPacketSize for e in settings[0]] == [512] * 4
    assert usb.util.find_descriptor(configuration, bInterfaceClass=0xFF) is not None


def test_extra_descriptors_are_bytes(served):
    server = Served("virtual:serial", "virtual:keyboard")
    made = usbferry.pyusb_backend(server.address)
    serial, keyboard = usb.core.find(find_all=True, backend=made)
    assert serial[0].extra_descriptors[:2] == [8, 11]  # the association, which stands before the first interface
    first = serial[0][(0, 0)]
    assert bytes(first.extra_descriptors).startswith(b"\x05\x24\x00")  # CDC's header
    assert keyboard[0][(0, 0)].extra_descriptors[:2] == [9, 0x21]
    assert keyboard[0][(0, 0)][0].extra_descriptors == []
    close(made)
    server.stop()


def test_configuration_and_interface_descriptors_cost_no_round_trip(device, monkeypatch):
    """pyusb asks for them again and again."""
    assert device.get_active_configuration().bConfigurationValue == 1
    monkeypatch.setattr("usbferry.backends.imported.RemoteDevice.submit", None)
    for _ in range(3):
        assert len([*device[0]]) == 2
        assert len(device.get_active_configuration()[(0, 0)].endpoints()) == 4


def test_an_index_error_is_the_end_of_pyusbs_loops(backend, device):
    """And nothing else is: its loops would go on, or the program would end."""
    port = device._ctx.dev
    for call in (
        lambda: backend.get_interface_descriptor(port, 1, 0, 0),
        lambda: backend.get_interface_descriptor(port, 0, 2, 0),
        lambda: backend.get_endpoint_descriptor(port, 4, 0, 0, 0),
    ):
        with pytest.raises(IndexError):
            call()


def test_devices_of_several_addresses_are_told_apart(served):
    other = Served()
    made = usbferry.pyusb_backend(served.address, f"{other.address}/1-2")
    found = list(usb.core.find(find_all=True, backend=made))
    assert [(d.bus, d.address) for d in found] == [(1, 2), (1, 3), (2, 3)]
    assert len(set(found)) == 3
    close(made)
    other.stop()


def test_a_selector_says_which_devices_are_meant(caplog):
    """Also while the program has one of them open, when its server cannot be asked for its serial number."""
    server = Served("virtual:zero?serial=A1", "virtual:zero?serial=B1")
    made = usbferry.pyusb_backend(f"{server.address}/serial=B*")
    for _ in range(2):
        [found] = usb.core.find(find_all=True, backend=made)
        assert found.serial_number == "B1"
        assert found.get_active_configuration().bConfigurationValue == 1
    assert [r for r in caplog.records if r.name == bus.log.name and r.levelno >= logging.WARNING] == []
    close(made)
    server.stop()


def test_a_server_that_is_not_there_is_told_once_and_has_no_devices(backend, caplog):
    made = usbferry.pyusb_backend("usbip://127.0.0.1:1")
    for _ in range(3):
        assert usb.core.find(backend=made) is None
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "usbferry: no connection to 127.0.0.1:1: Connection refused; is a server running there?"
    ]


def test_an_address_without_sense_is_a_value_error():
    with pytest.raises(ValueError, match="no kind of address"):
        usbferry.pyusb_backend("bluetooth:1")
    with pytest.raises(ValueError, match="which devices"):
        usbferry.pyusb_backend()


def test_a_device_in_use_elsewhere_is_seen_and_is_busy(served, monkeypatch):
    monkeypatch.setattr("usbferry.backends.remote.BUSY_SECONDS", 0.001)
    with usbferry.open(f"{served.address}/1-1"):
        made = usbferry.pyusb_backend(served.address)
        held, _ = usb.core.find(find_all=True, backend=made)
        assert usb.util.find_descriptor(held[0], bInterfaceClass=0xFF) is not None  # as the list says
        with pytest.raises(usb.core.USBError, match=r"Resource busy: .*somebody else uses it") as caught:
            held.set_configuration()
        assert (caught.value.backend_error_code, caught.value.errno) == (-6, errno.EBUSY)
        del held
    close(made)


def test_finding_takes_no_device_for_long(served, backend, monkeypatch):
    monkeypatch.setattr(bus, "LINGER_SECONDS", 0.05)
    assert len(list(usb.core.find(find_all=True, backend=backend))) == 2
    eventually(lambda: served.holders() == [False, False])


# -- transfers ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_transfer(device):
    assert device.read(0x81, 1000) == array("B", bytes(1000))
    assert device.write(0x02, "around") == 6
    assert device.read(0x82, 64).tobytes() == b"around"
    assert device.ctrl_transfer(0x40, 0x5B, 0, 0, b"kept") == 4
    assert device.ctrl_transfer(0xC0, 0x5C, 0, 0, 64).tobytes() == b"kept"
    device.set_interface_altsetting(0, 1)
    assert device.read(0x84, 512).tobytes() == bytes(512)
    assert device.write(0x04, b"i" * 100) == 100
    assert device.write(0x03, b"o" * 3000) == 3000  # three packets
    assert device.read(0x83, 3000).tobytes() == bytes(3000)


def test_iso_transfers_are_as_long_as_the_program_wants(device):
    """More packets than one transfer may have."""
    device.set_interface_altsetting(0, 1)
    assert len(device.read(0x83, 600 * 1024, timeout=5000)) == 600 * 1024
    assert device.write(0x03, bytes(600 * 1024 + 1), timeout=5000) == 600 * 1024 + 1


def test_arrays_of_any_item_are_filled_and_bytes_counted(device):
    device.write(0x02, bytes(range(16)))
    buffer = array("H", [0xFFFF] * 16)
    assert device.read(0x82, buffer) == 16
    assert buffer.tobytes() == bytes(range(16)) + b"\xff" * 16


def test_an_empty_write_reaches_the_wire(device):
    """Some protocols end a message with it."""
    assert device.write(0x02, b"") == 0
    device.write(0x02, b"next")
    assert device.read(0x82, 64).tobytes() == b""
    assert device.read(0x82, 64).tobytes() == b"next"


def test_short_packets_end_a_read_where_they_were_sent(device):
    for piece in (b"a" * 512, b"b" * 3, b"c"):
        device.write(0x02, piece)
    assert [device.read(0x82, 4096).tobytes() for _ in range(3)] == [b"a" * 512, b"b" * 3, b"c"]


def test_packets_with_a_status_in_front_are_not_joined():
    """pyftdi takes the first two bytes of every 64 for status, and polls when there is nothing else."""
    server = Served("virtual:ftdi")
    made = usbferry.pyusb_backend(server.address)
    adapter = usb.core.find(backend=made)
    assert len(adapter.read(0x81, 512)) == 2
    adapter.write(0x02, bytes(range(100)))
    raw = adapter.read(0x81, 512).tobytes()
    assert (len(raw), raw[2:64] + raw[66:]) == (104, bytes(range(100)))
    close(made)
    server.stop()


def test_one_thread_reads_while_another_writes(device):
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(device.read(0x82, 64, timeout=10_000).tobytes()))
    reader.start()
    device.write(0x02, b"from the other thread")
    reader.join(10)
    assert found == [b"from the other thread"]


def test_many_threads_on_one_handle(device):
    device.get_active_configuration()
    bad: list[object] = []

    def transfer(endpoint: int) -> None:
        for _ in range(50):
            if len(device.read(endpoint, 100)) != 100:
                bad.append(endpoint)
            device.write(0x01, bytes(100))

    threads = [threading.Thread(target=transfer, args=(0x81,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert bad == []


# -- errors ------------------------------------------------------------------------------------------------------------


def test_a_timeout_is_pyusbs(device):
    assert error_of(lambda: device.read(0x82, 64, timeout=20)) == TIMEOUT
    device.write(0x02, b"later")
    assert device.read(0x82, 64).tobytes() == b"later"


def test_no_timeout_means_for_ever(device):
    threading.Timer(0.05, lambda: device.write(0x02, b"at last")).start()
    assert device.read(0x82, 64, timeout=0).tobytes() == b"at last"


def test_what_came_before_a_timeout_is_no_error(device, monkeypatch):
    """`do not assume LIBUSB_ERROR_TIMEOUT means no I/O`, says pyusb's own."""

    def partly(status: Status, data: bytes, actual: int = -1) -> Callable[..., object]:
        def transfer(*arguments: object, **named: object) -> object:
            raise aio.TimedOut("late", Completion(status, data, actual))

        return transfer

    monkeypatch.setattr(sync.Handle, "read", partly(Status.TIMEOUT, b"some"))
    assert device.read(0x81, 64).tobytes() == b"some"
    monkeypatch.setattr(sync.Handle, "write", partly(Status.TIMEOUT, b"", 3))
    assert device.write(0x01, b"some") == 3


def test_a_stall_is_a_pipe_error(device):
    assert error_of(lambda: device.ctrl_transfer(0xC0, 0x77, 0, 0, 1)) == STALL
    device.ctrl_transfer(0x02, 3, 0, 0x81)
    with pytest.raises(usb.core.USBError, match="Pipe error"):
        device.read(0x81, 64)
    device.clear_halt(0x81)
    assert len(device.read(0x81, 64)) == 64
    assert error_of(lambda: device.clear_halt(0x8F)) == NOT_FOUND


def caused(by: BaseException | None) -> DeviceError:
    error = DeviceError("it has its reasons")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "code", "number"),
    [
        (caused(PermissionError(13, "no")), -3, errno.EACCES),
        (caused(ConnectionRefusedError(111, "no")), -4, errno.ENODEV),
        (caused(None), -1, errno.EIO),
        (Busy("it has its reasons"), -6, errno.EBUSY),
        (Unavailable("it has its reasons"), -6, errno.EBUSY),
        (NotFound("it has its reasons"), -4, errno.ENODEV),
    ],
)
def test_why_a_device_cannot_be_opened_is_in_the_text_and_in_the_number(device, monkeypatch, error, code, number):
    async def refuse(self: object) -> None:
        raise error

    monkeypatch.setattr(bus.Port, "acquire", refuse)
    with pytest.raises(usb.core.USBError, match="it has its reasons") as caught:
        device.set_configuration()
    assert (caught.value.backend_error_code, caught.value.errno) == (code, number)


@pytest.mark.parametrize("status", [status for status in Status if status != Status.OK])
def test_every_status_is_an_error_of_libusb(device, monkeypatch, status):
    def fail(*arguments: object, **named: object) -> object:
        raise aio.TransferError("it ended so", Completion(status))

    for method in ("read", "write", "control", "reset", "clear_halt", "set_configuration"):
        monkeypatch.setattr(sync.Handle, method, fail)
    found = {
        error_of(call)[1]
        for call in (
            lambda: device.read(0x81, 1),
            lambda: device.write(0x01, b"x"),
            lambda: device.ctrl_transfer(0x80, 0, 0, 0, 2),
            lambda: device.clear_halt(0x81),
            device.reset,
            device.set_configuration,
        )
    }
    assert len(found) == 1
    assert -12 < next(iter(found)) < 0


def test_a_device_that_left_is_enodev(served, device):
    ended: list[object] = []
    reader = threading.Thread(target=lambda: ended.append(error_of(lambda: device.read(0x82, 64, timeout=0))))
    device.get_active_configuration()
    reader.start()
    served.stop()
    reader.join(10)
    assert ended == [GONE]
    assert error_of(lambda: device.write(0x01, b"x")) == GONE
    assert error_of(lambda: device.ctrl_transfer(0xC0, 0x5C, 0, 0, 1)) == GONE
    usb.util.dispose_resources(device)


def test_a_device_that_left_for_good_is_not_opened(served, backend):
    first, _ = usb.core.find(find_all=True, backend=backend)
    served._loop.call_soon_threadsafe(served.device().vanish)
    eventually(lambda: len(list(usb.core.find(find_all=True, backend=backend))) == 1)
    assert error_of(first.set_configuration) == GONE


def test_a_device_that_came_back_as_another_is_another(backend, served):
    first, second = usb.core.find(find_all=True, backend=backend)
    first.set_configuration()
    served._loop.call_soon_threadsafe(lambda: served.device().vanish(away=0.01, become=(0x1209, 0x0010)))
    eventually(lambda: usb.core.find(idVendor=0x1209, backend=backend) is not None)
    became = usb.core.find(idVendor=0x1209, backend=backend)
    assert became not in (first, second)
    assert len(became.read(0x81, 64)) == 64
    assert error_of(lambda: first.read(0x81, 64)) == GONE


def test_a_device_that_becomes_another_by_its_reset_is_not_found():
    """As with libusb, which says so when the device has to be looked for again."""
    server = Served("virtual:dfu?will_detach=no")
    made = usbferry.pyusb_backend(server.address)
    runtime = usb.core.find(backend=made)
    runtime.ctrl_transfer(0x21, 0, 1000, 0)  # DFU_DETACH
    assert error_of(runtime.reset) == NOT_FOUND
    eventually(lambda: usb.core.find(idProduct=3, backend=made) is not None)
    close(made)
    server.stop()


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_device_is_configured_when_it_is_opened(device):
    """pyocd and others set no configuration."""
    assert device.get_active_configuration().bConfigurationValue == 1


def test_configuring_and_resetting_every_time_keeps_the_import(served, device):
    """python-escpos does both before it prints."""
    for _ in range(3):
        device.set_configuration()
        device.reset()
        assert len(device.read(0x81, 64)) == 64
        usb.util.release_interface(device, 0)
        assert served.holders()[0]


def test_a_reset_keeps_the_alternate_setting(device):
    device.set_interface_altsetting(0, 1)
    device.reset()
    device.set_interface_altsetting(0, 1)
    assert len(device.read(0x84, 64)) == 64


def test_claims_are_kept_apart(backend):
    one, other = (usb.core.find(idVendor=0x0525, backend=backend) for _ in range(2))
    usb.util.claim_interface(one, 0)
    assert error_of(lambda: usb.util.claim_interface(other, 0)) == BUSY
    assert error_of(lambda: other.set_configuration(1)) == BUSY
    assert error_of(lambda: one.set_configuration(1)) == BUSY  # Linux refuses one's own as well
    usb.util.release_interface(one, 0)
    usb.util.claim_interface(other, 0)
    usb.util.dispose_resources(other)
    usb.util.claim_interface(one, 0)
    assert error_of(lambda: usb.util.claim_interface(one, 1)) == NOT_FOUND
    assert error_of(lambda: usb.util.claim_interface(one, 99)) == INVALID


def test_what_is_not_claimed_is_not_set_nor_released(backend, device):
    device.get_active_configuration()
    handle = device._ctx.handle
    assert error_of(lambda: backend.release_interface(handle, 0)) == NOT_FOUND
    assert error_of(lambda: backend.set_interface_altsetting(handle, 0, 1)) == NOT_FOUND
    assert error_of(lambda: backend.set_configuration(handle, 9)) == NOT_FOUND
    assert error_of(lambda: backend.get_configuration_descriptor(device._ctx.dev, 3)) == NOT_FOUND


def test_unconfigured_and_back(device):
    device.set_configuration(0)
    with pytest.raises(usb.core.USBError, match="Configuration not set"):
        device.write(0x01, b"x")
    device.set_configuration()
    assert device.write(0x01, b"x") == 1


def test_there_is_no_kernel_driver_and_none_is_missed(device):
    assert device.is_kernel_driver_active(0) is False
    device.detach_kernel_driver(0)
    device.attach_kernel_driver(0)


def test_escpos_does_not_take_it_for_libusb(device):
    """By the module's name; it would ask for kernel drivers."""
    assert not device.backend.__module__.endswith("libusb1")


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_program_that_is_done_gives_its_device_back(served, device):
    device.write(0x01, b"x")
    assert served.holders()[0]
    usb.util.dispose_resources(device)
    eventually(lambda: not served.holders()[0])
    assert device.write(0x01, b"x") == 1  # opened again


def test_a_program_that_forgets_its_device_gives_it_back(served, backend):
    device = usb.core.find(idVendor=0x0525, backend=backend)
    device.write(0x01, b"x")
    del device
    gc.collect()
    eventually(lambda: not served.holders()[0])


def test_the_collector_may_close_a_device_in_the_loops_own_thread(served, backend):
    """Where waiting for the loop would be for ever."""
    device = usb.core.find(idVendor=0x0525, backend=backend)
    device.write(0x01, b"x")

    async def collect() -> None:
        nonlocal device
        device = None
        gc.collect()

    sync.run(collect(), 5)
    eventually(lambda: not served.holders()[0])


def test_a_backend_that_is_forgotten_leaves_nothing():
    before = len(LOOP._open)
    for _ in range(3):
        assert usb.core.find(backend=usbferry.pyusb_backend("virtual:zero")) is not None
        gc.collect()
    eventually(lambda: len(LOOP._open) <= before)


def test_a_program_that_ends_at_once_loses_nothing(tmp_path):
    """Python takes no more work for threads then, while a printer's last blocks are on their way to its file."""
    text = """
        import sys, usb.core, usbferry
        printer = usb.core.find(backend=usbferry.pyusb_backend(f"virtual:printer?to=file:{sys.argv[1]}"))
        for _ in range(16):
            printer.write(1, bytes(65536))
        """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(text), str(tmp_path / "paper")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "paper").stat().st_size == 16 * 65536


@pytest.mark.parametrize("address", ["virtual:zero", "served"])
def test_a_thread_that_reads_until_the_program_ends_is_not_told_of_it(served, address):
    """Its device is closed under it, which would be a traceback on everybody's standard error."""
    text = """
        import sys, threading, usb.core, usbferry
        device = usb.core.find(backend=usbferry.pyusb_backend(sys.argv[1]))
        for _ in range(2):
            threading.Thread(target=lambda: device.read(0x82, 64, timeout=0), daemon=True).start()
        device.write(0x01, b"x")
        """
    where = served.address if address == "served" else address
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(text), where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_virtual_device_needs_no_server():
    made = usbferry.pyusb_backend("virtual:zero", "virtual:mouse")
    zero, mouse = usb.core.find(find_all=True, backend=made)
    assert (zero.bus, mouse.bus) == (1, 2)
    zero.write(0x02, b"kept")
    usb.util.dispose_resources(zero)
    assert len(zero.read(0x81, 10)) == 10
    close(made)
