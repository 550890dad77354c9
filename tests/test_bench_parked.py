"""What reads that wait do to others over UDP: the measurement runs."""

import pytest

from bench import parked
from bench.weather import network
from tests.test_bench_jitter import root

assert root  # a fixture


@pytest.mark.alone
@pytest.mark.parametrize("beside", parked.BESIDE)
async def test_a_run(root, beside):
    """With one window for both directions there were 16 writes a second, and with one for each as many reads."""
    with network(8) as net:
        rate, median, most = await parked.run(net, "loss", "talks", beside, 60, 1.0)
    assert rate > 50
    assert median <= most
