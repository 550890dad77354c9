"""The conversation's assertions show both sides when they fail."""

import pytest

pytest.register_assert_rewrite("tests.protocols.usbredir.wire")
