"""Sources of devices that are not of this process, and the one that makes the virtual ones addressable."""
