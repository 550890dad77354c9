"""pytest's plug-in, in a pytest of its own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("has_it")
WITHOUT = ("asyncio", "cacheprovider", "hypothesispytest", "xdist", "rerunfailures")
QUIET = tuple(word for name in WITHOUT for word in ("-p", f"no:{name}"))


@pytest.fixture
def has_it(request: pytest.FixtureRequest) -> None:
    """It is an entry point, which an environment that was made before it lacks."""
    assert request.config.pluginmanager.hasplugin("usbferry"), "make venv: this environment was made before the plug-in"


def run(pytester: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    return pytester.runpytest_inprocess("-W", "error", *(options or QUIET))


def test_two_lines(pytester: pytest.Pytester) -> None:
    text = """
        import usb.core

        def test_my_driver(usb_device):
            device = usb.core.find(backend=usb_device("virtual:zero").pyusb())
            assert device.product == "Gadget Zero"
        """
    run(pytester, text).assert_outcomes(passed=1)


def test_a_failure_shows_the_transfers(pytester: pytest.Pytester) -> None:
    text = """
        def test_my_driver(usb_device):
            one, two = usb_device("virtual:zero"), usb_device("virtual:mouse")
            one.faults.stall(0x81)
            with one.open() as host:
                host.write(0x02, b"hello", timeout=10)
                host.read(0x81, 64, timeout=10)
        """
    result = run(pytester, text)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *usbferry.aio.Stalled: reading 64 bytes from endpoint 0x81: the endpoint is halted*",
            "*- USB transfers of virtual:zero -*",
            "* s  claimed by 127.0.0.1:* over usbip",
            "* s  GET_DESCRIPTOR, string 2, 255 bytes 'Gadget Zero'",
            "* s  writing 5 bytes to endpoint 0x02 [[]68 65 6c 6c 6f 'hello'[]]: ok",
            "* s  reading 64 bytes from endpoint 0x81: the endpoint is halted*",
            "* s  fault: stall",
            "*- USB transfers of virtual:mouse -*",
            "no host has used it",
        ],
        consecutive=False,
    )


def test_a_success_shows_nothing(pytester: pytest.Pytester) -> None:
    text = "def test_it(usb_device):\n    usb_device('virtual:zero').open().read(0x81, 4, timeout=10)\n"
    result = run(pytester, text)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*USB transfers*")


def test_a_fixture_that_fails_shows_them_too(pytester: pytest.Pytester) -> None:
    text = """
        import pytest

        @pytest.fixture
        def host(usb_device):
            with usb_device("virtual:zero").open() as host:
                yield host
                host.control(0xC0, 0x77, data_or_length=1)

        @pytest.fixture
        def broken(host):
            host.control(0xC0, 0x78, data_or_length=1)

        def test_end(host):
            pass

        def test_start(broken):
            pass
        """
    result = run(pytester, text)
    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines(["*control request c0 0x77 *: the device refuses it"])
    result.stdout.fnmatch_lines(["*control request c0 0x78 *: the device refuses it"])


def test_devices_of_other_fixtures_are_shown_too(pytester: pytest.Pytester) -> None:
    text = """
        import pytest
        from usbferry.testing import plugged

        @pytest.fixture(scope="module")
        def zero():
            with plugged("virtual:zero") as one:
                yield one

        def test_one(zero):
            with zero.open() as host:
                host.write(0x02, b"kept", timeout=10)

        def test_two(zero):
            assert not zero.transfers

        def test_three():
            assert not "of no device"
        """
    result = run(pytester, text)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["* s  writing 4 bytes to endpoint 0x02 [[]6b 65 70 74 'kept'[]]: ok"])


def test_async_tests(pytester: pytest.Pytester) -> None:
    text = """
        from usbferry import aio

        async def test_it(usb_device):
            plugged = usb_device("virtual:zero")
            async with await aio.open(plugged.usbip) as host:
                plugged.faults.length(0x81, size=3)
                assert await host.read(0x81, 64, timeout=10) == bytes(3)
        """
    asynchronous = ("--asyncio-mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    run(pytester, text, *asynchronous, *QUIET[2:]).assert_outcomes(passed=1)


def test_it_is_the_tests_own(pytester: pytest.Pytester) -> None:
    """What a test leaves open is closed, and the next one finds nothing of it."""
    text = """
        import pytest
        import usbferry

        addresses = []

        def test_one(usb_device):
            plugged = usb_device("virtual:zero")
            plugged.open()
            addresses.append(plugged.usbip)

        def test_two(usb_device):
            with pytest.raises(usbferry.DeviceError):
                usbferry.open(addresses[0])
        """
    run(pytester, text).assert_outcomes(passed=2)


def test_who_does_not_use_it_pays_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\n\ndef test_it():\n    assert [n for n in sys.modules if n.startswith('usbferry')] == "
        "['usbferry', 'usbferry.pytest_plugin']\n"
    )
    pytester.runpytest_subprocess(*QUIET).assert_outcomes(passed=1)
