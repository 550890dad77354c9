"""Real devices through libusb: `usb:1-2` is a Source, each of its devices an opened libusb handle.

    Device.submit -> [behind a barrier?] -> libusb_submit_transfer
    answers <- all that ended <- libusb's events, handled in the event loop, or in a thread where that cannot be

    library.py   the library and a context: who handles its events, and the one place where completions come to the loop
    descriptors.py  what the loop watches for that
    flight.py    one transfer in libusb's words, there and back
    scan.py      what is plugged in, without opening it
    device.py    the Device: barriers, special requests, reset, the way out
    source.py    the Source: opening, and changes
    precious.py  what is not shared by accident
    guard.py     gives drivers their devices back when we were killed

Nothing that blocks runs in the event loop: what libusb has no asynchronous call for runs in the device's own thread.
"""
