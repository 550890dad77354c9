"""Virtual devices for tests of drivers and host programs: `plugged`, and pytest's fixture `usb_device`."""

from .plugged import Plugged, PlugIn, plugged, sections

__all__ = ["PlugIn", "Plugged", "plugged", "sections"]
