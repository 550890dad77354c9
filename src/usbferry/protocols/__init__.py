"""Bytes to events and back, without I/O: each protocol is two state machines.

An **exporter** has the device, an **importer** uses it. Neither reads a clock, a socket or the operating system: bytes
and the time come in as arguments. Protocols do not know each other; they meet in `events`.
"""
