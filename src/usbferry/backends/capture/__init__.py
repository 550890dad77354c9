"""Captures of USB traffic in the formats that Wireshark, tcpdump and USBPcap write: what `tap:` and `replay:` share."""
