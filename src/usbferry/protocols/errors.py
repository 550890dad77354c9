"""The one error that bytes from the wire may raise; `openings` has a kind of it."""


class ProtocolError(Exception):
    """The peer broke its protocol: what came, and what was allowed. The connection ends; others are untouched."""
