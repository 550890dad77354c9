"""A program of pyusb, as people write them: plays with a Gadget Zero and says what happened."""

import usb.core
import usb.util

device = usb.core.find(idVendor=0x0525)
print(f"{device.idVendor:04x}:{device.idProduct:04x}")
if device.is_kernel_driver_active(0):
    device.detach_kernel_driver(0)
    print("detached")
device.set_configuration()
assert device.write(0x02, bytes(1000)) == 1000
print("looped", len(device.read(0x82, 1000)))
device.set_interface_altsetting(0, 1)
print("alternate", device.ctrl_transfer(0x81, 10, 0, 0, 1)[0])
print("interrupt", len(device.read(0x84, 64)))
try:
    device.ctrl_transfer(0xC0, 0x77, 0, 0, 8)
except usb.core.USBError as error:
    print("stall", error.errno)
try:
    device.read(0x82, 64, timeout=50)
except usb.core.USBTimeoutError:
    print("timeout")
device.reset()
usb.util.dispose_resources(device)
