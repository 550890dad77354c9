"""Helpers whose assertions show both sides when they fail: named here, for any order in which folders are given."""

import pytest

pytest.register_assert_rewrite("tests.protocols.usbip.wire")
