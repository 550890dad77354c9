"""What is known of a device: which configuration and which alternate settings are in force."""

from __future__ import annotations

from usbferry.usb.descriptors import Configuration, DeviceDescriptor, Interface
from usbferry.usb.info import DeviceInfo

DEVICE = DeviceDescriptor(0x046D, 0xC31C)


def info(*interfaces: Interface, **fields: object) -> DeviceInfo:
    return DeviceInfo("1-1", DEVICE, (Configuration(1, interfaces),), **fields)  # type: ignore[arg-type]


def places(device: DeviceInfo) -> list[tuple[int, int]]:
    return [(i.number, i.alternate) for i in device.interfaces]


def test_the_configuration_in_force() -> None:
    first, second = Configuration(1), Configuration(2, (Interface(0, interface_class=8),))
    device = DeviceInfo("1-1", DEVICE, (first, second), configuration=2)
    assert device.active is second
    assert device.classes == ((8, 0, 0),)


def test_its_title_is_what_it_says_of_itself() -> None:
    assert info(manufacturer="Acme", product="Board").title == "Acme Board"
    assert info(product="Board").title == "Board"
    assert (info().title, str(info())) == ("", "1-1 046d:c31c")


def test_an_unconfigured_device_has_no_interfaces() -> None:
    device = info(Interface(0), configuration=0)
    assert device.active is None
    assert (device.interfaces, device.classes) == ((), ())


def test_interfaces_come_by_number_in_their_current_settings() -> None:
    device = info(Interface(1), Interface(1, 1), Interface(0), Interface(0, 1), Interface(0, 2), alternates={0: 2})
    assert places(device) == [(0, 2), (1, 0)]


def test_an_alternate_setting_that_is_not_there_changes_nothing() -> None:
    assert places(info(Interface(0), Interface(0, 1), alternates={0: 7, 3: 1})) == [(0, 0)]


def test_an_interface_without_setting_0_begins_in_its_first() -> None:
    assert places(info(Interface(0, 2), Interface(0, 1))) == [(0, 2)]
    assert places(info(Interface(0, 2), Interface(0, 1), alternates={0: 1})) == [(0, 1)]


def test_the_first_of_two_equal_settings_counts() -> None:
    device = info(Interface(0, interface_class=3), Interface(0, interface_class=8))
    assert device.classes == ((3, 0, 0),)


def test_a_list_without_descriptors_knows_the_classes_alone() -> None:
    device = DeviceInfo("1-1", DEVICE, interface_classes=((3, 1, 1), (3, 0, 0)))
    assert device.interfaces == ()
    assert device.classes == ((3, 1, 1), (3, 0, 0))


def test_text() -> None:
    assert str(info()) == "1-1 046d:c31c"
    assert str(info(product="Keyboard")) == "1-1 046d:c31c Keyboard"
    assert str(info(manufacturer="Logitech", product="Keyboard")) == "1-1 046d:c31c Logitech Keyboard"
    named_so = DeviceInfo("046d:c31c", DEVICE, product="Keyboard")  # as usbredir does, which has no bus ids
    assert str(named_so) == "046d:c31c Keyboard"
