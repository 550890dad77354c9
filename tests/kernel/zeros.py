"""Gadget Zeros of the guest's own kernel, on dummy_hcd: the devices that usbtest was written for, on this side bare.

Of the kernel's functions none has interrupt endpoints: ffs.py is one that has.
"""

from tests.kernel.guest import CHECKOUT, Guest

FFS = CHECKOUT / "tests" / "kernel" / "ffs.py"
NAMES = ("high", "super", "interrupt")  # their serial numbers


def make(guest: Guest, pattern: int = 1) -> dict[str, str]:
    """Plug them all in, each in a port of its own; their bus ids. `pattern` is what the bytes of "super" are."""
    shown = guest.run(f"""
        modprobe -a libcomposite usb_f_ss_lb usb_f_fs && modprobe dummy_hcd num={len(NAMES)} is_super_speed=1 || exit
        mount -t configfs configfs /sys/kernel/config
        begin() {{  # SERIAL MAX_SPEED FUNCTION
            mkdir /sys/kernel/config/usb_gadget/$1 && cd /sys/kernel/config/usb_gadget/$1 || exit
            mkdir strings/0x409 configs/c.1 functions/$3 || exit
            echo 0x0525 >idVendor; echo 0xa4a0 >idProduct; echo $2 >max_speed
            echo $1 >strings/0x409/serialnumber
        }}
        begin high high-speed SourceSink.high
        ln -s functions/SourceSink.high configs/c.1 && echo dummy_udc.0 >UDC || exit
        begin super super-speed SourceSink.super
        echo {pattern} >functions/SourceSink.super/pattern
        ln -s functions/SourceSink.super configs/c.1 && echo dummy_udc.1 >UDC || exit
        begin interrupt high-speed ffs.interrupt
        ln -s functions/ffs.interrupt configs/c.1
        mkdir /run/ffs && mount -t functionfs interrupt /run/ffs || exit
        setsid /usr/bin/python3 -I -S {FFS} /run/ffs &>/run/ffs.log </dev/null &
        until grep -q ready /run/ffs.log; do sleep 0.05; done
        echo dummy_udc.2 >UDC || exit
        cd /sys/bus/usb/devices
        for serial in {" ".join(NAMES)}; do
            until device=$(dirname $(grep -slx $serial */serial)) && [ -e $device/$device:1.0 ]; do sleep 0.05; done
            echo $serial $device
        done
    """).ok()
    return dict(line.split() for line in shown.splitlines())
