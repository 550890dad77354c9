"""The small words: their numbers are other systems' numbers, and each has a text."""

from __future__ import annotations

import pytest

from usbferry.usb.types import Direction, Speed, Status, TransferType


def test_speeds_are_numbered_as_in_linux() -> None:
    assert [speed.value for speed in Speed] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("speed", Speed)
def test_every_speed_has_a_label(speed: Speed) -> None:
    assert speed.label


def test_microframes_begin_at_high_speed() -> None:
    assert [speed for speed in Speed if speed.has_microframes] == [
        Speed.HIGH,
        Speed.WIRELESS,
        Speed.SUPER,
        Speed.SUPER_PLUS,
    ]


def test_bits() -> None:
    assert (Direction.OUT, Direction.IN) == (0x00, 0x80)
    assert [kind.value for kind in TransferType] == [0, 1, 2, 3]


def test_ok_is_the_only_status_that_is_false() -> None:
    assert [status for status in Status if not status] == [Status.OK]
