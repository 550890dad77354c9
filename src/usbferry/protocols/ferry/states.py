"""What may happen when, one table for each side: the code goes by them, the specification shows them as diagrams."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Target(Enum):
    """One transport seen from the target, and the session on it once there is one."""

    NEW = "new"  # no version agreed
    OPEN = "open"  # nothing claimed
    CLAIMING = "claiming"  # a device is being opened
    CLAIMED = "claimed"
    DETACHED = "detached"  # claimed, and without a controller that is known to be there
    RELEASING = "releasing"  # the device is being closed and reset
    OVER = "over"


TARGET: Final[dict[tuple[Target, str], Target]] = {
    (Target.NEW, "VERSION"): Target.OPEN,
    (Target.NEW, "no common version"): Target.OVER,
    (Target.NEW, "transport lost"): Target.OVER,
    (Target.OPEN, "CLAIM"): Target.CLAIMING,
    (Target.OPEN, "transport lost"): Target.OVER,
    (Target.CLAIMING, "device opened"): Target.CLAIMED,
    (Target.CLAIMING, "refused"): Target.OPEN,
    (Target.CLAIMING, "transport lost"): Target.OVER,
    (Target.CLAIMED, "RELEASE"): Target.RELEASING,
    (Target.CLAIMED, "transport lost"): Target.DETACHED,
    (Target.CLAIMED, "transport lost, token unproven"): Target.OVER,  # no call showed that the controller has it
    (Target.CLAIMED, "RESUME"): Target.CLAIMED,
    (Target.CLAIMED, "device gone"): Target.OVER,
    (Target.DETACHED, "RESUME"): Target.CLAIMED,
    (Target.DETACHED, "transport lost"): Target.DETACHED,
    (Target.DETACHED, "grace over"): Target.OVER,
    (Target.DETACHED, "device gone"): Target.OVER,
    (Target.RELEASING, "device closed"): Target.OPEN,
    (Target.RELEASING, "transport lost"): Target.OVER,
}


class Controller(Enum):
    """A controller, from its first transport to its last."""

    IDLE = "idle"  # nothing asked, nothing claimed
    LISTING = "listing"
    CLAIMING = "claiming"
    USING = "using"
    LOST = "lost"  # the claim waits for another transport
    RESUMING = "resuming"
    OVER = "over"


CONTROLLER: Final[dict[tuple[Controller, str], Controller]] = {
    (Controller.IDLE, "LIST"): Controller.LISTING,
    (Controller.IDLE, "CLAIM"): Controller.CLAIMING,
    (Controller.IDLE, "RESUME"): Controller.RESUMING,
    (Controller.IDLE, "transport lost"): Controller.OVER,
    (Controller.LISTING, "answered"): Controller.IDLE,
    (Controller.LISTING, "transport lost"): Controller.OVER,
    (Controller.CLAIMING, "claimed"): Controller.USING,
    (Controller.CLAIMING, "refused"): Controller.IDLE,
    (Controller.CLAIMING, "transport lost"): Controller.OVER,
    (Controller.USING, "transport lost"): Controller.LOST,
    (Controller.USING, "HOLD answered"): Controller.OVER,
    (Controller.USING, "RELEASE"): Controller.OVER,
    (Controller.LOST, "RESUME"): Controller.RESUMING,
    (Controller.LOST, "grace over"): Controller.OVER,
    (Controller.RESUMING, "resumed"): Controller.USING,
    (Controller.RESUMING, "no session"): Controller.OVER,
    (Controller.RESUMING, "transport lost"): Controller.LOST,
}
