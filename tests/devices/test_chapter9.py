"""The standard requests, each in its details: USB 2.0 §9.4 and USB 3.2 §9.4 say what is asserted here."""

from types import MappingProxyType

import pytest

from tests.devices.host import ask, opened, read
from usbferry.devices.chapter9 import at_full_speed
from usbferry.devices.virtual import VirtualDevice, endpoint
from usbferry.usb import build, descriptors
from usbferry.usb.descriptors import Bos, Configuration, DeviceDescriptor, Endpoint, Interface, UsbExtension
from usbferry.usb.setup import Setup, clear_halt, get_descriptor, set_configuration, set_interface
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Speed, Status, TransferType

SELF_POWERED, REMOTE_WAKEUP = 0x40, 0x20
WAKE, TEST_MODE, U1, U2, LTM = 1, 2, 48, 49, 50
STALL = Status.STALL


class Whole(VirtualDevice):
    """Two configurations, alternate settings, every type of endpoint, all strings."""

    descriptor = DeviceDescriptor(0x1209, 0x0001, release=0x0123)
    manufacturer, product, serial = "Maker", "Whole", "№ 1"
    strings = MappingProxyType({7: "seven"})

    def __init__(self, speed=Speed.HIGH, bos=None):
        self.speed, self.bos = speed, bos
        self.told = []
        super().__init__()

    def configurations(self):
        some = (self.bulk(0x81), self.bulk(0x01), self.interrupt(0x82, 64, 4), self.isochronous(0x83, 512, 4))
        return (
            Configuration(
                1,
                (Interface(0), Interface(0, 1, endpoints=some), Interface(2, endpoints=(self.bulk(0x84),))),
                attributes=0x80 | SELF_POWERED | REMOTE_WAKEUP,
            ),
            Configuration(5, (Interface(0, endpoints=(self.bulk(0x81),)),)),
        )

    @endpoint(0x81)
    def give(self, transfer):
        return Completion(Status.OK, bytes(transfer.length))

    def settings_changed(self):
        self.told.append((self.info.configuration, dict(self.info.alternates)))

    def halt_cleared(self, address):
        self.told.append(address)


class Plain(VirtualDevice):
    descriptor = DeviceDescriptor(0x1209, 0x0002, usb=0x0110)
    manufacturer = ""
    speed = Speed.FULL


def status(device, setup, data=b""):
    return ask(device, setup, data).status


def data(device, setup):
    answer = ask(device, setup)
    assert answer.status == Status.OK, setup
    return bytes(answer.data)


def feature(request_type, selector, index=0, *, on=True):
    return Setup(request_type, 3 if on else 1, selector, index)


@pytest.fixture
async def device():
    async with opened(Whole()) as whole:
        yield whole


@pytest.fixture
async def fast():
    async with opened(Whole(Speed.SUPER)) as whole:
        yield whole


# -- GET_DESCRIPTOR -----------------------------------------------------------------------------------------------


async def test_device_descriptor(device):
    raw = data(device, get_descriptor(1))
    assert raw == build.device(device.info.device)
    assert (len(raw), raw[7], raw[17]) == (18, 64, 2), "length, bMaxPacketSize0, bNumConfigurations"
    assert raw[14:17] == bytes([1, 2, 3]), "iManufacturer, iProduct, iSerialNumber"
    assert status(device, get_descriptor(1, 1)) == STALL, "it has no index"


@pytest.mark.parametrize("length", [1, 8, 17, 18, 64])
async def test_no_more_than_asked_for(device, length):
    assert data(device, get_descriptor(1, length=length)) == build.device(device.info.device)[:length]


async def test_no_data_stage_at_all(device):
    answer = ask(device, get_descriptor(1, length=0))
    assert (answer.status, answer.actual) == (Status.OK, 0)


async def test_configuration_descriptors_go_by_index_not_value(device):
    for index, configuration in enumerate(device.info.configurations):
        raw = data(device, get_descriptor(2, index, length=1024))
        assert raw == build.configuration(configuration)
        assert int.from_bytes(raw[2:4], "little") == len(raw)
    assert status(device, get_descriptor(2, 2)) == STALL


async def test_interface_and_endpoint_descriptors_come_with_their_configuration_alone(device):
    assert [status(device, get_descriptor(kind)) for kind in (0, 4, 5, 11, 48, 255)] == [STALL] * 6


async def test_strings(device):
    assert data(device, get_descriptor(3)) == bytes([4, 3, 0x09, 0x04]), "the languages"
    texts = [data(device, get_descriptor(3, index, language=0x0409)) for index in (1, 2, 3, 7)]
    assert [descriptors.parse_string(raw) for raw in texts] == ["Maker", "Whole", "№ 1", "seven"]
    assert data(device, get_descriptor(3, 1, language=0)) == texts[0], "hosts that do not care ask so"
    assert status(device, get_descriptor(3, 4, language=0x0409)) == STALL
    assert status(device, get_descriptor(3, 1, language=0x0407)) == STALL


async def test_a_device_without_strings_has_no_languages():
    async with opened(Plain()) as plain:
        assert status(plain, get_descriptor(3)) == STALL
        assert data(plain, get_descriptor(1))[14:17] == bytes(3)


async def test_what_a_high_speed_device_says_of_full_speed(device):
    qualifier = data(device, get_descriptor(6))
    assert (len(qualifier), qualifier[7:9]) == (10, bytes([64, 2]))
    other = data(device, get_descriptor(7, 0, length=1024))
    slow = descriptors.parse_configuration(bytes([9, 2]) + other[2:])
    assert other[1] == 7
    sizes = {e.address: (e.max_packet, e.interval) for i in slow.interfaces for e in i.endpoints}
    assert sizes == {0x81: (64, 0), 0x01: (64, 0), 0x82: (64, 1), 0x83: (512, 1), 0x84: (64, 0)}
    assert status(device, get_descriptor(7, 2)) == STALL


async def test_other_speeds_have_no_qualifier(fast):
    async with opened(Plain()) as plain:
        for one in (plain, fast):
            assert [status(one, get_descriptor(kind)) for kind in (6, 7)] == [STALL, STALL]


@pytest.mark.parametrize(
    ("interval", "slower"), [(1, 1), (4, 1), (7, 8), (11, 128), (12, 255), (16, 255)]
)  # microframes to the power, and frames
def test_interrupt_intervals_at_full_speed(interval, slower):
    one = Configuration(1, (Interface(0, endpoints=(Endpoint(0x81, TransferType.INTERRUPT, 1024, interval),)),))
    (found,) = at_full_speed(one).interfaces[0].endpoints
    assert (found.max_packet, found.interval) == (64, slower)


async def test_bos_only_where_there_is_one(device, fast):
    assert status(device, get_descriptor(15)) == STALL
    raw = data(fast, get_descriptor(15))
    assert raw[:5] == bytes([5, 15, len(raw), 0, 2]), "a plain one at SuperSpeed"
    assert int.from_bytes(data(fast, get_descriptor(1))[2:4], "little") == 0x0320
    assert data(fast, get_descriptor(1))[7] == 9, "bMaxPacketSize0 is an exponent"


async def test_a_declared_bos_wants_usb_2_01():
    class Extended(Whole):
        descriptor = DeviceDescriptor(0x1209, 0x0001, usb=0x0201)

    bos = Bos((UsbExtension(2),))
    async with opened(Extended(bos=bos)) as device:
        assert data(device, get_descriptor(15)) == build.bos(bos)
    async with opened(Whole(bos=bos)) as device:
        assert status(device, get_descriptor(15)) == STALL, "it says it is USB 2.0"


async def test_descriptors_cannot_be_set(device):
    assert status(device, Setup(0, 7, 0x0300, 0, 4), b"\4\3ab") == STALL


# -- configurations and alternate settings ------------------------------------------------------------------------


async def test_it_is_opened_in_its_first_configuration(device):
    assert data(device, Setup(0x80, 8, length=1)) == b"\1"
    assert device.told == [(1, {})]


async def test_configurations_are_set_by_value(device):
    assert status(device, set_configuration(5)) == Status.OK
    assert data(device, Setup(0x80, 8, length=1)) == b"\5"
    assert status(device, set_configuration(2)) == STALL
    assert data(device, Setup(0x80, 8, length=1)) == b"\5", "as it was"
    assert status(device, set_configuration(0)) == Status.OK
    assert data(device, Setup(0x80, 8, length=1)) == b"\0"


async def test_only_the_endpoints_of_the_settings_in_force_are_there(device):
    def there():
        return [a for a in (0x81, 0x01, 0x82, 0x83, 0x84) if data_status(a) != STALL]

    def data_status(address):
        return status(device, Setup(0x82, 0, 0, address, 2))

    assert there() == [0x84]
    assert status(device, set_interface(0, 1)) == Status.OK
    assert there() == [0x81, 0x01, 0x82, 0x83, 0x84]
    status(device, set_configuration(5))
    assert there() == [0x81]
    status(device, set_configuration(0))
    assert there() == []
    assert device.submit(read(0x81, 8)).status == STALL


async def test_alternate_settings(device):
    get = Setup(0x81, 10, 0, 0, 1)
    assert data(device, get) == b"\0"
    assert status(device, set_interface(0, 1)) == Status.OK
    assert (data(device, get), device.info.alternates) == (b"\1", {0: 1})
    assert status(device, set_interface(0, 2)) == STALL
    assert data(device, get) == b"\1", "as it was"
    assert status(device, set_interface(2, 0)) == Status.OK, "the one it is in"
    assert status(device, set_interface(1, 0)) == STALL, "there is no interface 1"
    assert status(device, Setup(0x81, 10, 0, 1, 1)) == STALL


async def test_a_configuration_begins_in_alternate_settings_0_also_when_it_is_the_same(device):
    status(device, set_interface(0, 1))
    device.told.clear()
    assert status(device, set_configuration(1)) == Status.OK
    assert (device.told, device.info.alternates) == ([(1, {})], {})


async def test_an_unconfigured_device_has_no_interfaces(device):
    status(device, set_configuration(0))
    requests = [Setup(0x81, 10, 0, 0, 1), set_interface(0, 0), Setup(0x81, 0, 0, 0, 2)]
    assert [status(device, setup) for setup in requests] == [STALL] * 3
    assert status(device, get_descriptor(1)) == Status.OK


# -- halts --------------------------------------------------------------------------------------------------------


def is_halted(device, address):
    return data(device, Setup(0x82, 0, 0, address, 2)) == b"\1\0"


async def test_halt_is_set_read_and_cleared(device):
    status(device, set_interface(0, 1))
    assert not is_halted(device, 0x81)
    assert status(device, feature(0x02, 0, 0x81)) == Status.OK
    assert is_halted(device, 0x81)
    assert device.submit(read(0x81, 8)).status == STALL
    assert not is_halted(device, 0x82), "the others work"
    assert status(device, clear_halt(0x81)) == Status.OK
    assert (is_halted(device, 0x81), device.told[-1]) == (False, 0x81)
    assert device.submit(read(0x81, 8)).status == Status.OK


async def test_the_data_toggle_starts_again(device):
    """By CLEAR_FEATURE halted or not (§9.4.5), by SET_INTERFACE and SET_CONFIGURATION for endpoints that had begun."""
    status(device, set_interface(0, 1))
    pipe = device._pipes[0x81]
    status(device, clear_halt(0x81))
    assert pipe.toggle_resets == 1
    status(device, clear_halt(0x01))
    assert pipe.toggle_resets == 1
    for setup in (set_interface(0, 1), set_configuration(1)):
        before = device._pipes.copy()
        status(device, setup)
        untouched = {0x84} if setup.request == 11 else set()
        assert {a for a, p in device._pipes.items() if a & 15 and before.get(a) is p} == untouched


@pytest.mark.parametrize("setup", [set_interface(0, 1), set_configuration(1)])
async def test_settings_end_halts(device, setup):
    status(device, set_interface(0, 1))
    status(device, feature(0x02, 0, 0x81))
    status(device, setup)
    status(device, set_interface(0, 1))
    assert not is_halted(device, 0x81)


async def test_another_interfaces_halt_stays(device):
    status(device, feature(0x02, 0, 0x84))
    status(device, set_interface(0, 1))
    assert is_halted(device, 0x84)


async def test_the_default_endpoint_does_not_stay_halted(device):
    assert status(device, feature(0x02, 0, 0)) == Status.OK
    assert not is_halted(device, 0x00)
    assert not is_halted(device, 0x80)
    assert status(device, clear_halt(0)) == Status.OK
    assert status(device, get_descriptor(1)) == Status.OK


async def test_isochronous_endpoints_do_not_halt(device):
    status(device, set_interface(0, 1))
    assert status(device, feature(0x02, 0, 0x83)) == STALL
    assert not is_halted(device, 0x83)
    assert status(device, clear_halt(0x83)) == Status.OK


async def test_endpoints_have_one_feature_and_must_be_there(device):
    assert status(device, feature(0x02, 1, 0x84)) == STALL
    assert status(device, feature(0x02, 1, 0x84, on=False)) == STALL
    for setup in (feature(0x02, 0, 0x85), clear_halt(0x85), Setup(0x82, 0, 0, 0x85, 2), Setup(0x82, 0, 0, 0x04, 2)):
        assert status(device, setup) == STALL


# -- status and features of device and interfaces -------------------------------------------------------------------


def device_status(device):
    return int.from_bytes(data(device, Setup(0x80, 0, length=2)), "little")


async def test_remote_wakeup(device):
    assert device_status(device) == 1, "self-powered"
    assert status(device, feature(0x00, WAKE)) == Status.OK
    assert device_status(device) == 3
    assert status(device, feature(0x00, WAKE, on=False)) == Status.OK
    assert device_status(device) == 1


async def test_remote_wakeup_where_the_configuration_has_none(device):
    status(device, set_configuration(5))
    assert status(device, feature(0x00, WAKE)) == STALL
    assert device_status(device) == 0, "bus-powered"


async def test_features_a_high_speed_device_lacks(device):
    for selector in (0, TEST_MODE, U1, U2, LTM, 999):
        assert status(device, feature(0x00, selector)) == STALL, selector
        assert status(device, feature(0x00, selector, on=False)) == STALL, selector


async def test_status_of_a_device_has_no_index(device):
    assert status(device, Setup(0x80, 0, 0, 1, 2)) == STALL


async def test_link_states_of_super_speed(fast):
    for selector, bit in ((U1, 2), (U2, 3)):
        assert status(fast, feature(0x00, selector)) == Status.OK
        assert device_status(fast) == 1 | 1 << bit
        assert status(fast, feature(0x00, selector, on=False)) == Status.OK
    assert [status(fast, feature(0x00, selector)) for selector in (WAKE, LTM)] == [STALL, STALL]
    assert device_status(fast) == 1


async def test_link_states_need_a_configuration(fast):
    status(fast, set_configuration(0))
    assert status(fast, feature(0x00, U1)) == STALL


async def test_status_of_interfaces(device, fast):
    get = Setup(0x81, 0, 0, 2, 2)
    assert data(device, get) == b"\0\0"
    assert status(device, Setup(0x81, 0, 0, 1, 2)) == STALL
    assert status(device, feature(0x01, 0, 2)) == STALL, "USB 2.0 has no feature of an interface"
    assert data(fast, get) == b"\1\0", "function remote wake capable"
    assert status(fast, feature(0x01, 0, 0x0302)) == Status.OK, "FUNCTION_SUSPEND: suspended, may wake"
    assert data(fast, get) == b"\3\0"
    assert data(fast, Setup(0x81, 0, 0, 0, 2)) == b"\1\0", "another interface"
    assert status(fast, feature(0x01, 0, 0x0002, on=False)) == Status.OK
    assert data(fast, get) == b"\1\0"
    assert status(fast, feature(0x01, 1, 2)) == STALL


async def test_a_configuration_ends_function_suspend(fast):
    status(fast, feature(0x01, 0, 0x0302))
    status(fast, set_configuration(1))
    assert data(fast, Setup(0x81, 0, 0, 2, 2)) == b"\1\0"


async def test_a_reset_forgets_features_and_halts_and_keeps_settings(device):
    status(device, set_interface(0, 1))
    status(device, feature(0x00, WAKE))
    status(device, feature(0x02, 0, 0x81))
    await device.reset()
    assert (device_status(device), is_halted(device, 0x81), device.info.alternates) == (1, False, {0: 1})


# -- the rest -------------------------------------------------------------------------------------------------------


async def test_set_address_is_accepted(device):
    assert status(device, Setup(0, 5, 12)) == Status.OK


async def test_synch_frame_is_for_isochronous_endpoints(device):
    status(device, set_interface(0, 1))
    assert data(device, Setup(0x82, 12, 0, 0x83, 2)) == b"\0\0"
    assert status(device, Setup(0x82, 12, 0, 0x81, 2)) == STALL
    assert status(device, Setup(0x82, 12, 0, 0x8F, 2)) == STALL


async def test_exit_latencies_and_delays_are_for_super_speed(device, fast):
    sel, delay = Setup(0, 48, length=6), Setup(0, 49, 40)
    assert [status(fast, sel, bytes(6)), status(fast, delay)] == [Status.OK] * 2
    assert [status(device, sel, bytes(6)), status(device, delay)] == [STALL] * 2


@pytest.mark.parametrize(
    "setup",
    [
        Setup(0x00, 2),
        Setup(0x80, 4, length=1),
        Setup(0x80, 255, length=1),
        Setup(0x00, 6, 0x0100),
        Setup(0x80, 9, 1),
        Setup(0x02, 9, 1),
        Setup(0x03, 0, 0, 0, 2),
        Setup(0x81, 6, 0x2200, 0, 64),
        Setup(0x21, 9),
        Setup(0xC0, 1, length=8),
        Setup(0xE0, 1, length=8),
        Setup(0x1F, 0xFF, 0xFFFF, 0xFFFF, 0),
    ],
    ids=str,
)
async def test_what_nobody_handles_is_refused(device, setup):
    assert status(device, setup) == STALL
