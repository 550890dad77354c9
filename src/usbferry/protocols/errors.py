"""The one error that bytes from the wire may raise."""


class ProtocolError(Exception):
    """The peer broke its protocol: what came, and what was allowed. The connection ends; others are untouched."""


class Stranger(ProtocolError):
    """The peer does not speak the protocol at all: what it began with is nothing that begins a conversation."""
