"""Three devices at once, of one server in one guest, all busy, all correct."""

import hashlib
import time

from tests.kernel.guest import Guest
from tests.kernel.steps import (
    PATTERN_CASES,
    UNLINK_RETRY,
    attach,
    detach,
    disk_of,
    unexpected,
    usbtest_command,
    usbtest_result,
)

MIB = 1 << 20

# Both devices share a driver, and so its options; `pattern=1` has every byte checked, by the driver and by us.
ZEROS = ("virtual:zero?pattern=1", "virtual:zero?pattern=1&speed=super")
DRIVERS = "modprobe -a vhci-hcd sd_mod && modprobe usb-storage delay_use=0 && modprobe usbtest alt=1 pattern=1"


def test_three_devices_at_once_all_busy(guest: Guest, serve, tmp_path):
    image = tmp_path / "disk.img"
    server = serve(*ZEROS, f"virtual:disk?image={image}&size=64M")
    guest.run(DRIVERS).ok()
    guest.mark()
    high, super_, stick = (attach(guest, server.port, name) for name in ("1-1", "1-2", "1-3"))
    disk = disk_of(guest, stick)
    words = " ".join(f"{case},iterations=50,vary=512" for case in PATTERN_CASES)
    steps = [guest.start(usbtest_command(f"reload=0 device={zero.device} {words}"), 200) for zero in (high, super_)]
    steps.append(
        guest.start(
            f"""
            dd if=/dev/urandom of=$SHARED/written bs=1M count=16 status=none
            sha256sum <$SHARED/written
            echo busy
            for round in 1 2 3; do
                dd if=$SHARED/written of=/dev/{disk} bs=128k seek=$((round * 128)) oflag=direct conv=fsync status=none
                dd if=/dev/{disk} bs=128k skip=$((round * 128)) count=128 iflag=direct status=none | sha256sum
            done
            """,
            200,
        )
    )
    while not all(step.output().count("\n") >= 2 for step in steps):  # each has begun ...
        assert not any(step.is_over() for step in steps)
        time.sleep(0.02)
    assert not any(step.is_over() for step in steps)  # ... and none is over
    runs = [usbtest_result(step) for step in steps[:2]]
    hashes = steps[2].wait().ok().replace("busy", "").split()[::2]
    for attached in (high, super_, stick):
        detach(guest, attached)

    assert [run.speed for run in runs] == ["480", "5000"]
    assert [run.device for run in runs] == [high.device, super_.device]
    assert [run.failed for run in runs] == [{}, {}]
    assert [run.passed for run in runs] == [list(PATTERN_CASES)] * 2
    written = (guest.shared / "written").read_bytes()
    assert hashes == [hashlib.sha256(written).hexdigest()] * 4
    assert image.read_bytes()[16 * MIB :] == written * 3
    assert unexpected(guest, UNLINK_RETRY) == []
