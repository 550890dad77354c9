"""A target's clock: how long it waits for its controller, and when it says again what that may have missed."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ProtocolError
from ..limits import Limits
from .desk import Desk
from .messages import SILENT_HEARTBEATS, Code
from .states import Target


class Patience(Desk):
    """What a target does because time passes."""

    def __init__(self, limits: Limits, instance: bytes, token: Callable[[], bytes], now: float) -> None:
        super().__init__(limits, instance, token)
        self._silence = float(SILENT_HEARTBEATS * limits.heartbeat_seconds)  # after which the transport is lost
        self._heard = now  # since then the transport is silent
        self._lost_at = now
        self._linked = True  # there is a transport

    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        if self._linked:
            silent = self._heard + (self._silence if self.state is Target.CLAIMED else self._patience)
            return min(silent, self._repeats.deadline(self._heard)) if self._way.is_lossy else silent
        return self._lost_at + self._limits.grace_seconds if self.state is Target.DETACHED else None

    def tick(self, now: float) -> None:
        """Let time pass. Raises ProtocolError when the controller was silent for too long."""
        if self._linked:
            self._repeat(now)
            if now < self._heard + self._patience:
                return
            if not (self._challenge or self._may_leave_silently):
                raise ProtocolError(f"silent for {self._patience:g} s")
            if self.state is Target.OPEN:  # no mistake of whose address it is, and nobody there to be told
                self._move("transport lost")
        elif self.state is Target.DETACHED and now >= self._lost_at + self._limits.grace_seconds:
            self._move("grace over")

    def _repeat(self, now: float) -> None:
        """Say again what has perhaps not come."""
        session = self._session
        if session is not None and self._way.is_lossy:
            for identifier in self._repeats.due(now, self._heard, session.ledger.replies):
                answer = session.ledger.again(identifier)
                if not isinstance(answer, Code):
                    self._send(identifier, *answer[1:])

    @property
    def _may_leave_silently(self) -> bool:
        """Whether silence is how a controller ends: it has no claim, and datagrams tell nobody that it closed."""
        return self.state is Target.OPEN and self._way.is_lossy

    @property
    def _patience(self) -> float:
        if self.state is Target.NEW:
            return self._limits.handshake_seconds
        return self._limits.proof_seconds if self._challenge else self._silence
