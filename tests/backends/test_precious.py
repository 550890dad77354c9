"""What is not shared by accident, told from copies of /proc and /sys."""

from pathlib import Path

import pytest

from usbferry.backends.libusb.precious import why_precious
from usbferry.usb.info import DeviceInfo
from usbferry.usb.tree import DeviceDescriptor

STICK = "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-4"
KEYBOARD = "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-1"
MOUNTINFO = """\
22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
23 22 0:5 / /proc rw - proc proc rw
30 22 {number} / /media/my\\040stick rw,nosuid shared:9 master:2 - vfat /dev/none rw
"""
PS2 = """\
I: Bus=0011 Vendor=0001 Product=0001 Version=ab41
N: Name="AT Translated Set 2 keyboard"
S: Sysfs=/devices/platform/i8042/serio0/input/input3
H: Handlers=sysrq kbd event3 leds
B: EV=120013
"""
USB = """\
I: Bus=0003 Vendor=046d Product=c31c Version=0110
N: Name="Logitech USB Keyboard"
S: Sysfs=/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0/0003:046D:C31C.0001/input/input7
H: Handlers=sysrq kbd event7 leds
B: EV=120013
"""
BUTTON = """\
I: Bus=0019 Vendor=0000 Product=0001 Version=0000
N: Name="Power Button"
S: Sysfs=/devices/LNXSYSTM:00/LNXPWRBN:00/input/input0
H: Handlers=kbd event0
B: EV=3
"""


def device(path: str, triplet: tuple[int, int, int], device_class: int = 0) -> DeviceInfo:
    descriptor = DeviceDescriptor(0x1209, 1, device_class=device_class)
    return DeviceInfo("1-1", descriptor, path=path, interface_classes=(triplet,))


def stick(root: Path, number: str = "8:17", slave: str = "") -> DeviceInfo:
    """A stick with a mounted partition, or with one that lies under the mounted `slave`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(MOUNTINFO.format(number=slave or number))
    blocks = root / "sys/dev/block"
    blocks.mkdir(parents=True)
    partition = root / STICK[1:] / "1-4:1.0/host6/target6:0:0/6:0:0:0/block/sdb/sdb1"
    partition.mkdir(parents=True)
    (partition / "dev").write_text(f"{number}\n")
    (blocks / number).symlink_to(partition)
    if slave:
        (blocks / slave / "slaves").mkdir(parents=True)
        (blocks / slave / "slaves/sdb1").symlink_to(partition)
    return device(f"{root}{STICK}", (8, 6, 0x50))


@pytest.mark.parametrize("slave", ["", "253:0"])
def test_a_mounted_disk(tmp_path, slave):
    info = stick(tmp_path, slave=slave)
    assert why_precious(info, tmp_path) == "is mounted on /media/my stick; unmount it first"


def test_another_disk_and_one_that_is_not_mounted(tmp_path):
    stick(tmp_path)
    assert why_precious(device(f"{tmp_path}/sys/devices/pci0000:00/usb2/2-1", (8, 6, 0x50)), tmp_path) is None
    (tmp_path / "proc/self/mountinfo").write_text("")
    assert why_precious(device(f"{tmp_path}{STICK}", (8, 6, 0x50)), tmp_path) is None


def test_a_swap_partition(tmp_path):
    info = stick(tmp_path)
    (tmp_path / "proc/self/mountinfo").write_text("")
    (tmp_path / "proc/swaps").write_text("Filename Type Size Used Priority\n/no/such/node partition 1 0 -2\n")
    assert why_precious(info, tmp_path) is None


@pytest.mark.parametrize(
    ("inputs", "is_only"), [((USB,), True), ((USB, BUTTON), True), ((USB, PS2), False), ((BUTTON,), False), ((), False)]
)
def test_the_only_keyboard(tmp_path, inputs, is_only):
    (tmp_path / "proc/bus/input").mkdir(parents=True)
    (tmp_path / "proc/bus/input/devices").write_text("\n".join(inputs))
    reason = why_precious(device(KEYBOARD, (3, 1, 1)), tmp_path)
    assert (reason is not None and "only keyboard" in reason) is is_only


def test_a_second_usb_keyboard_may_go(tmp_path):
    (tmp_path / "proc/bus/input").mkdir(parents=True)
    (tmp_path / "proc/bus/input/devices").write_text(USB + "\n" + USB.replace("1-1", "1-3"))
    assert why_precious(device(KEYBOARD, (3, 1, 1)), tmp_path) is None


def test_a_hub_whatever_the_system(tmp_path):
    assert why_precious(device("", (9, 0, 0), device_class=9), tmp_path) == "is a hub; share the devices behind it"


def test_what_is_another_machines(tmp_path):
    info = device("/sys/devices/platform/vhci_hcd.0/usb3/3-1", (0xFF, 0, 0))
    assert "share it from there" in (why_precious(info, tmp_path) or "")


def test_what_nothing_speaks_against(tmp_path):
    assert why_precious(device(STICK, (0xFF, 0, 0)), tmp_path) is None
