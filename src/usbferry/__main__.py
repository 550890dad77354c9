"""`python -m usbferry`."""

from .cli import main

main()
