"""Byte streams under the protocols: connect, listen, write in one go, and stop reading when answers pile up."""
