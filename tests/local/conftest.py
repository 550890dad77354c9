"""A kernel to attach to, made of files."""

from pathlib import Path

import pytest

from tests.local.kernel import Kernel
from usbferry.local import vhci


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(tmp_path)
    monkeypatch.setattr(vhci, "_write", made.write)
    return made
