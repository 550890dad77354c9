"""What a verb that stays says of its work: `-v` and `-vv`, for all of them alike."""

from __future__ import annotations

import logging


def configure_logging(verbose: int) -> None:
    """Log to stderr: warnings, with 1 who comes and goes as well, and with 2 or more every transfer."""
    logging.basicConfig(
        level=(logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)],
        format="%(levelname).1s %(name)s: %(message)s",
    )
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # what it warns of comes to us as an exception too
