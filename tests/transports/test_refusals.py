"""One refusal that is repeated is one line of the log."""

from __future__ import annotations

from usbferry.transports.refusals import MOST, QUIET_SECONDS, Refusals


def test_who_asks_again_and_again_is_no_news() -> None:
    refusals = Refusals()
    asked = [refusals.is_news(f"192.0.2.7:{port}", "1-1 is in use", port * QUIET_SECONDS * 0.9) for port in range(1, 9)]
    assert asked == [True] + [False] * 7


def test_after_a_pause_it_is() -> None:
    refusals = Refusals()
    assert refusals.is_news("[::1]:5", "busy", 0.0)
    assert refusals.is_news("[::1]:6", "busy", QUIET_SECONDS)


def test_another_machine_or_another_reason_is() -> None:
    refusals = Refusals()
    for peer, reason in (("192.0.2.7:5", "busy"), ("192.0.2.8:5", "busy"), ("192.0.2.7:5", "gone"), ("local", "busy")):
        assert refusals.is_news(peer, reason, 0.0)
        assert not refusals.is_news(peer, reason, 1.0)


def test_a_flood_of_reasons_takes_no_memory() -> None:
    refusals = Refusals()
    for number in range(3 * MOST):
        assert refusals.is_news("192.0.2.7:5", f"no device {number}", 0.0)
    assert len(refusals._last) == MOST
    assert not refusals.is_news("192.0.2.7:5", f"no device {3 * MOST - 1}", 0.0)
