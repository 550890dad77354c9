"""Gadgets that a guest's kernel makes (configfs) and exports with its other server: usbip-vudc and usbipd --device.

Each is the one function of a device of its own. The guest's other sides: $SHARED/lun, /dev/ttyGS0, /dev/hidg0 and
/dev/g_printer0.
"""

import os

from tests.kernel.guest import Guest

PORT = 3241  # usbip-host's server has the usual one
DISK_BYTES = 2 << 20
BOOT_KEYBOARD = bytes.fromhex(  # USB HID 1.11 appendix E.6, as far as a key
    "05010906a101050719e029e71500250175019508810295017508810195067508150025650507190029658100c0"
)
PRINTER_ID = "MFG:usbferry;MDL:paper;"
# name -> its function, and attributes of that
GADGETS = {
    "storage": ("mass_storage.0", ["lun.0/file=$SHARED/lun"]),
    "serial": ("acm.0", []),
    "keyboard": ("hid.0", ["protocol=1", "subclass=1", "report_length=8", "report_desc=@$SHARED/report"]),
    "zero": ("SourceSink.0", ["pattern=1"]),
    "loop": ("Loopback.0", []),
    "printer": ("printer.0", [f"pnp_string='{PRINTER_ID}'"]),
}
GADGET_ZERO = (0x0525, 0xA4A0)  # what the kernel's usbtest driver takes

# The kernel says so at error level whenever an importer closes; the second is the keyboard's.
CLOSED = (r"^usbip_vudc: v_rx exit with error -32$", r"^configfs-gadget\S* gadget\S*: End Point Request ERROR: -108$")


def ids_of(name: str) -> tuple[int, int]:
    """Its vendor and product."""
    return GADGET_ZERO if name in ("zero", "loop") else (0x1209, 0x0100 + [*GADGETS].index(name))


def export(guest: Guest) -> dict[str, str]:
    """Have the guest make and export them; the bus id of each."""
    (guest.shared / "lun").write_bytes(os.urandom(DISK_BYTES))
    (guest.shared / "report").write_bytes(BOOT_KEYBOARD)
    lines = [
        f"gadget {number} {name} {' '.join(map(str, ids_of(name)))} {function} {' '.join(attributes)}"
        for number, (name, (function, attributes)) in enumerate(GADGETS.items())
    ]
    guest.run(f"""
        modprobe usbip-vudc num={len(GADGETS)} && modprobe libcomposite || exit
        mount -t configfs configfs /sys/kernel/config
        gadget() {{  # NUMBER NAME VENDOR PRODUCT FUNCTION [ATTRIBUTE=VALUE]...
            local number=$1 name=$2 vendor=$3 product=$4 function=$5
            shift 5
            cd /sys/kernel/config/usb_gadget
            mkdir $name && cd $name && mkdir strings/0x409 configs/c.1 functions/$function || exit
            echo $vendor >idVendor; echo $product >idProduct
            echo usbferry >strings/0x409/manufacturer; echo "a $name" >strings/0x409/product
            for attribute; do
                case ${{attribute#*=}} in
                    @*) cat "${{attribute#*=@}}" ;;
                    *) echo -n "${{attribute#*=}}" ;;
                esac >functions/$function/${{attribute%%=*}} || exit
            done
            ln -s functions/$function configs/c.1 && echo usbip-vudc.$number >UDC || exit
        }}
        {chr(10).join(lines)}
        usbipd --device --tcp-port {PORT} -D
        until usbip --tcp-port {PORT} list -r 127.0.0.1 &>/dev/null; do sleep 0.1; done
    """).ok()
    return {name: f"usbip-vudc.{number}" for number, name in enumerate(GADGETS)}
