"""`facedancer:`: programs as people write them for Facedancer 3, and the devices that it ships, used by a host."""

from __future__ import annotations

import asyncio
import logging
import struct
import textwrap
import time
from pathlib import Path

import pytest

from tests.devices.host import turn
from usbferry import aio
from usbferry.backends import facedancing
from usbferry.backends.facedancing import FacedancerSource
from usbferry.device import DeviceError
from usbferry.registry import open_source
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Transfer
from usbferry.usb.types import Speed, Status

pytest.importorskip("facedancer")

# What its own documentation teaches: everything declared, inner classes, handlers on each level, `main` at the end.
DECLARED = """
    from facedancer import *
    from facedancer import main

    @use_inner_classes_automatically
    class Gauge(USBDevice):
        product_string: str = "Gauge"
        manufacturer_string: str = "Somebody"
        serial_number_string: str = "17"
        vendor_id: int = 0x1209
        product_id: int = 0x0001
        log = []

        class Only(USBConfiguration):
            class Plain(USBInterface):
                class In(USBEndpoint):
                    number: int = 1
                    direction: USBDirection = USBDirection.IN
                    def handle_buffer_empty(self):
                        self.get_device().log.append("empty")
                class Out(USBEndpoint):
                    number: int = 1
                    direction: USBDirection = USBDirection.OUT
                    def handle_data_received(self, data):
                        self.get_device().log.append(bytes(data))
                        if data == b"halt":
                            self.get_device().stall(endpoint_number=1, direction=USBDirection.OUT)
                        elif data == b"end":
                            from facedancer.errors import EndEmulation
                            raise EndEmulation("it was told to")
                        elif data == b"raise":
                            raise RuntimeError("a mistake")
                        else:
                            self.get_device().send(1, b"<" + data + b">")
            class Other(USBInterface):
                number: int = 1
                alternate: int = 0
            class OtherAlternate(USBInterface):
                number: int = 1
                alternate: int = 1
                class Counter(USBEndpoint):
                    number: int = 2
                    direction: USBDirection = USBDirection.IN
                    transfer_type: USBTransferType = USBTransferType.INTERRUPT
                    interval: int = 1
                    asked = 0
                    def handle_data_requested(self):
                        self.asked += 1
                        if self.asked % 3 == 0:
                            self.send(bytes([self.asked]))

        @vendor_request_handler(number=1, direction=USBDirection.IN)
        @to_device
        def version(self, request):
            request.reply(b"1.0 and more")

        @vendor_request_handler(number=2, direction=USBDirection.OUT)
        @to_device
        def setting(self, request):
            self.kept = bytes(request.data)
            request.ack()

        @vendor_request_handler(number=3)
        @to_device
        def later(self, request):
            self.asking = request

        @vendor_request_handler(number=4)
        @to_device
        def answer(self, request):
            self.asking.reply(b"at last")
            request.ack()
"""


@pytest.fixture
def program(tmp_path: Path):
    """Writes one; its address."""

    def write(text: str, name: str = "device.py", options: str = "") -> str:
        (tmp_path / name).write_text(textwrap.dedent(text))
        return f"facedancer:{tmp_path / name}{options}"

    return write


@pytest.fixture
async def gauge(program):
    async with await aio.open(program(DECLARED + "\n    main(Gauge)\n")) as handle:
        yield handle


def of(handle: aio.Handle):
    """The Facedancer device itself."""
    return handle.device._facedancer


# -- one device -------------------------------------------------------------------------------------------------------


async def test_it_says_what_its_program_declares(gauge) -> None:
    info = gauge.info
    assert (info.ids, info.title, info.serial, info.speed) == ("1209:0001", "Somebody Gauge", "17", Speed.FULL)
    assert [(i.number, i.alternate) for i in info.configurations[0].interfaces] == [(0, 0), (1, 0), (1, 1)]
    assert await gauge.get_descriptor(2, length=9) == bytes(of(gauge).configurations[1].get_descriptor())[:9]
    assert await gauge.get_string(info.device.product) == "Gauge"
    assert await gauge.control(0x80, 8, 0, 0, 1) == b"\x01"


async def test_requests_reach_their_handlers(gauge) -> None:
    assert await gauge.control(0xC0, 1, 0, 0, 3) == b"1.0"
    await gauge.control(0x40, 2, 0, 0, b"abc")
    assert of(gauge).kept == b"abc"
    with pytest.raises(aio.Stalled):
        await gauge.control(0xC0, 99, 0, 0, 3)


async def test_a_request_may_be_answered_later(gauge) -> None:
    """Others wait behind it, as they do on a bus; the one that is cancelled is forgotten."""
    transfer = Transfer(0x80, 64, b"", Setup(0xC0, 3, length=64).pack())
    answer = gauge.device.submit(transfer)
    await turn()
    assert not answer.done()
    of(gauge).asking.reply(b"at last")
    await turn()
    assert bytes(answer.result().data) == b"at last"
    transfer = Transfer(0x80, 64, b"", Setup(0xC0, 3, length=64).pack())
    answer = gauge.device.submit(transfer)
    gauge.device.cancel(transfer)
    of(gauge).asking.reply(b"too late")
    assert await gauge.control(0xC0, 1, 0, 0, 3) == b"1.0"
    assert answer.result().status == Status.CANCELLED


async def test_data_goes_packet_by_packet(gauge) -> None:
    data = bytes(range(130))
    assert await gauge.write(0x01, data) == 130
    assert await gauge.write(0x01, bytes(64), zero_packet=True) == 64
    received = [one for one in of(gauge).log if one != "empty"]
    assert received == [data[:64], data[64:128], data[128:], bytes(64), b""]
    assert await gauge.read(0x81, 4096) == b"<" + data[:64] + b">"  # 64 and 2 bytes: the second packet is short
    assert await gauge.read(0x81, 4) == b"<" + data[64:67]
    assert await gauge.read(0x81, 4096) == data[67:128] + b">"


async def test_an_endpoint_that_has_nothing_waits_and_is_asked_now_and_then(gauge) -> None:
    reading = gauge.submit(Transfer(0x81, 64))
    await asyncio.sleep(0.15)
    assert not reading.done()
    assert of(gauge).log.count("empty") == 1  # once for each empty buffer
    of(gauge).send(1, b"here")
    assert bytes((await reading).data) == b"here"


async def test_it_is_asked_again_without_haste(gauge) -> None:
    asked, enough = list[float](), asyncio.Event()

    def ask(endpoint: object) -> None:
        asked.append(time.monotonic())
        if len(asked) == 10:
            enough.set()

    of(gauge).handle_data_requested = ask
    reading = gauge.submit(Transfer(0x81, 64))
    async with asyncio.timeout(20):
        await enough.wait()
    assert asked[9] - asked[0] > 0.09  # 1, 2, 4, 8, and then 16 ms five times
    gauge.device.cancel(next(iter(gauge.device._pipes[0x81]._queue)))
    assert (await reading).status == Status.CANCELLED


async def test_alternate_settings_and_interrupts(gauge) -> None:
    with pytest.raises(aio.Stalled):
        await gauge.read(0x82, 8)
    await gauge.set_interface(1, 1)
    assert [await gauge.read(0x82, 8, timeout=5) for _ in range(3)] == [b"\x03", b"\x06", b"\x09"]
    await gauge.reset()
    assert [i.alternate for i in gauge.interfaces] == [0, 1]
    assert await gauge.read(0x82, 8, timeout=5) == b"\x0c"


async def test_a_halt_lasts_until_the_host_clears_it(gauge) -> None:
    with pytest.raises(aio.Stalled):
        await gauge.write(0x01, b"halt")
    with pytest.raises(aio.Stalled):
        await gauge.write(0x01, b"more")
    await gauge.clear_halt(0x01)
    await gauge.write(0x01, b"more")
    assert await gauge.read(0x81, 64) == b"<more>"


async def test_a_mistake_in_a_handler_fails_its_transfer_alone(gauge, caplog) -> None:
    with pytest.raises(aio.TransferError):
        await gauge.write(0x01, b"raise")
    assert "RuntimeError: a mistake" in caplog.text
    await gauge.write(0x01, b"well")


async def test_a_program_that_ends_unplugs_its_device(gauge) -> None:
    with pytest.raises(aio.DeviceGone):
        await gauge.write(0x01, b"end")
    assert await gauge.wait_gone() == "its program ended: it was told to"


async def test_a_program_that_disconnects_unplugs_its_device(gauge) -> None:
    of(gauge).disconnect()
    assert await gauge.wait_gone() == "its program disconnected it"


async def test_each_claim_begins_anew(program) -> None:
    source = open_source(program(DECLARED + "\n    main(Gauge)\n"))
    for _ in range(2):
        device = await source.open("", aio.Claimant("local"))
        handle = aio.Handle(device, None)
        assert await handle.control(0x80, 8, 0, 0, 1) == b"\x01"
        await handle.write(0x01, b"x")
        assert of(handle).log[-1] == b"x"
        await handle.close()
        assert of(handle).configuration is None
    await source.close()


# -- programs ---------------------------------------------------------------------------------------------------------


async def test_a_program_with_coroutines_and_words(program) -> None:
    """Its device made by hand, its handler set on the object, its words read as it always does."""
    address = program(
        """
        import asyncio, sys
        from facedancer import *
        from facedancer import main
        greeting = sys.argv[1].encode()
        sys.argv = sys.argv[:1]

        class Greeter(USBDevice):
            def __init__(self):
                super().__init__(vendor_id=0x1234, product_string="Greeter")
                configuration = USBConfiguration()
                self.add_configuration(configuration)
                interface = USBInterface()
                configuration.add_interface(interface)
                interface.add_endpoint(USBEndpoint(number=4, direction=USBDirection.IN))

        device = Greeter()

        async def greet():
            while device.configuration is None:
                await asyncio.sleep(0.01)
            device.send(4, greeting)

        main(device, greet())
        """,
        options="?args=hello%20more",
    )
    async with await aio.open(address) as handle:
        assert handle.info.product == "Greeter"
        assert await handle.read(0x84, 64, timeout=10) == b"hello"


async def test_a_coroutine_that_ends_the_emulation(program) -> None:
    text = DECLARED + textwrap.indent(
        textwrap.dedent(
            """
            from facedancer.errors import EndEmulation
            async def leave():
                raise EndEmulation("enough")
            if __name__ == "__main__":
                Gauge().emulate(leave())
            """
        ),
        "    ",
    )
    async with await aio.open(program(text)) as handle:
        assert await handle.wait_gone() == "its program ended: enough"


async def test_a_coroutine_that_fails_is_told_and_the_device_goes_on(program, caplog) -> None:
    text = DECLARED + "\n    async def fail():\n        raise OSError('no such thing')\n    main(Gauge, fail())\n"
    async with await aio.open(program(text)) as handle:
        await turn()
        assert "a coroutine of Somebody Gauge ended" in caplog.text
        assert await handle.control(0xC0, 1, 0, 0, 3) == b"1.0"


async def test_a_program_does_not_set_up_our_log(program) -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    text = DECLARED + "\n    import logging\n    logging.basicConfig(level=1, force=True)\n    main(Gauge)\n"
    async with await aio.open(program(text)) as handle:
        assert (root.level, root.handlers[:]) == before
        await handle.write(0x01, b"x")


async def test_a_program_that_is_asked_nothing_leaves_nothing(program) -> None:
    """Its coroutine never ran: nobody claimed the device."""
    source = open_source(program(DECLARED + "\n    async def never():\n        1 / 0\n    main(Gauge, never())\n"))
    assert [info.product for info in await source.list()] == ["Gauge"]
    await source.close()


@pytest.mark.parametrize("suffix", ["", ":Gauge"])
async def test_a_file_without_main_has_a_device(program, suffix: str) -> None:
    async with await aio.open(program(DECLARED) + suffix) as handle:
        assert handle.info.product == "Gauge"


async def test_what_lies_beside_a_program_is_found(program) -> None:
    program(DECLARED, "gauge_of_facedancer.py")
    text = "from gauge_of_facedancer import Gauge\nfrom facedancer import main\nmain(Gauge)\n"
    async with await aio.open(program(text, "other.py", "?speed=low&fault=stall:0:request=1")) as handle:
        assert handle.info.speed is Speed.LOW
        with pytest.raises(aio.Stalled):
            await handle.control(0xC0, 1, 0, 0, 3)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("import sys\nsys.exit(3)", "", r"the program ended by itself \(3\); does it need words\? write args="),
        ("x = 1\ny = x / 0", "", "line 2: ZeroDivisionError"),
        ("def x(:", "", "line 1: SyntaxError"),
        ("x = 1", "", r"it hands no device to main\(\), and has none"),
        (
            "from facedancer import *\nclass A(USBDevice): pass\nclass B(USBDevice): pass",
            "",
            "has several: A, B; write",
        ),
        ("x = 1", ":Nothing", "it has no device 'Nothing'; there are: none"),
        (
            "from facedancer import *\nfrom facedancer import main\nclass A(USBDevice): pass\nmain(A)",
            ":A",
            "it runs its device when it is imported; leave out the class",
        ),
        (
            "from facedancer import *\nfrom facedancer import main\nclass A(USBDevice): pass\nmain(A)",
            "",
            "no configuration",
        ),
    ],
)
async def test_a_program_that_cannot_be_served_says_why(program, text: str, options: str, said: str) -> None:
    source = open_source(program(text) + options)
    with pytest.raises(DeviceError, match=said) as caught:
        await source.list()
    assert "\n" not in str(caught.value)
    with pytest.raises(StopAsyncIteration):
        await anext(source.watch())
    await source.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("facedancer:", "write it as"),
        ("facedancer:gauge", "write it as"),
        ("facedancer:x.py?what=1", "facedancer has no option 'what'; it has: speed, args, fault"),
        ("facedancer:x.py?fault=explode", "no fault"),
        ("facedancer:/no/such.py", "there is no file /no/such.py"),
        ("facedancer:/no/such.py:Gauge", "there is no file /no/such.py"),
    ],
)
def test_an_address_that_makes_no_sense_says_why(address: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FacedancerSource(address)


async def test_without_facedancer_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, program) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(facedancing, "import_module", missing)
    with pytest.raises(DeviceError, match=r"there is no Facedancer here .*install.* facedancer"):
        await open_source(program("x = 1")).list()


async def test_isochronous_endpoints_are_told_and_silent(program) -> None:
    address = program(
        """
        from facedancer import *
        from facedancer import main
        @use_inner_classes_automatically
        class Sound(USBDevice):
            class C(USBConfiguration):
                class I(USBInterface):
                    class In(USBEndpoint):
                        number: int = 1
                        direction: USBDirection = USBDirection.IN
                        transfer_type: USBTransferType = USBTransferType.ISOCHRONOUS
                        interval: int = 1
                    class Out(USBEndpoint):
                        number: int = 2
                        direction: USBDirection = USBDirection.OUT
                        transfer_type: USBTransferType = USBTransferType.ISOCHRONOUS
                        interval: int = 1
        main(Sound)
        """
    )
    source = open_source(address)
    await source.list()
    assert source.notes == ("note: Facedancer has no isochronous transfers, so nothing moves on 0x02, 0x81",)
    handle = aio.Handle(await source.open("", aio.Claimant("local")), source)
    assert await handle.read_packets(0x81, [64, 64]) == [(Status.OK, b""), (Status.OK, b"")]
    assert await handle.write_packets(0x02, [b"ab"]) == [(Status.OK, 2)]
    await handle.close()


# -- what it ships ----------------------------------------------------------------------------------------------------


async def test_its_keyboard() -> None:
    async with await aio.open("facedancer:facedancer.devices.keyboard:USBKeyboardDevice") as handle:
        assert len(await handle.control(0x81, 6, 0x2200, 0, 255)) == 43
        assert await handle.read(0x83, 64) == bytes(10)
        of(handle).key_down(4)
        assert await handle.read(0x83, 64) == bytes([0, 0, 4, *bytes(7)])


async def test_its_disk(program, tmp_path: Path) -> None:
    """Its SCSI handler is made when it is connected; blocks are read and written."""
    (tmp_path / "disk").write_bytes(bytes(range(256)) * 4096)
    text = """
        import sys
        from facedancer import main
        from facedancer.devices.umass import RawDiskImage, USBMassStorageDevice
        image, sys.argv = sys.argv[1], sys.argv[:1]
        main(USBMassStorageDevice(RawDiskImage(image, 512, verbose=0)))
        """
    async with await aio.open(program(text, options=f"?args={tmp_path / 'disk'}")) as disk:

        async def command(code: int, lba: int, blocks: int, data: bytes = b"") -> bytes:
            block = struct.pack(">BBIBHB", code, 0, lba, 0, blocks, 0)
            way = 0 if data else 0x80
            await disk.write(0x01, struct.pack("<4sIIBBB16s", b"USBC", 9, 512 * blocks, way, 0, 10, block))
            got = await disk.read(0x83, 512 * blocks, timeout=10) if not data else b""
            if data:
                await disk.write(0x01, data)
            assert await disk.read(0x83, 13, timeout=10) == b"USBS" + struct.pack("<IIB", 9, 0, 0)
            return got

        assert await command(0x28, 100, 8) == bytes(range(256)) * 16
        await command(0x2A, 100, 2, b"new!" * 256)
        of(disk).disk_image.file.close()  # it closes the map of it alone
        assert await command(0x28, 99, 4) == bytes(range(256)) * 2 + b"new!" * 256 + bytes(range(256)) * 2
