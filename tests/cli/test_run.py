"""`usbferry run`: programs of pyusb that know nothing of us, started in every way in which people start programs."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path

import pytest
import usb
from click.testing import CliRunner

from usbferry.cli import main, run

USES = "import usb.core; d = usb.core.find(); print(d.product, d.write(2, b'hi'), d.read(0x82, 9).tobytes())"
SAYS = "Gadget Zero 2 b'hi'\n"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals, and `#!`")


def started(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `usbferry run` with a virtual device makes of a program."""
    command = [sys.executable, "-m", "usbferry", "run", "--device", "virtual:zero", "--", *words]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=30)


def out(*words: str, **environment: str) -> str:
    done = started(*words, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return path


# -- ways to start -----------------------------------------------------------------------------------------------------


def test_without_us_it_has_no_device():
    """No libusb, or no devices: either way it fails."""
    done = subprocess.run([sys.executable, "-c", USES], capture_output=True, text=True)
    assert done.returncode == 1
    assert "NoBackendError" in done.stderr or "NoneType" in done.stderr


def test_a_text():
    assert out(sys.executable, "-c", USES) == SAYS


def test_a_file_and_its_arguments(tmp_path):
    program = tmp_path / "prog.py"
    program.write_text(f"import sys\n{USES}\nprint(sys.argv[1:])")
    assert out(sys.executable, str(program), "-v", "--device", "x") == f"{SAYS}['-v', '--device', 'x']\n"


def test_a_module(tmp_path):
    (tmp_path / "prog.py").write_text(USES)
    assert out(sys.executable, "-m", "prog", PYTHONPATH=str(tmp_path)) == SAYS


@pytest.mark.slow
@POSIX
def test_a_console_script(tmp_path):
    script(tmp_path / "prog", USES)
    assert out("prog", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}") == SAYS
    assert out(str(tmp_path / "prog")) == SAYS


def test_what_a_program_starts_has_the_devices_too():
    assert (
        out(sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {USES!r}])") == SAYS
    )


def test_several_devices():
    text = "import usb.core; print(*sorted(f'{d.idVendor:04x}' for d in usb.core.find(find_all=True)))"
    command = [sys.executable, "-m", "usbferry", "run", "--device", "virtual:zero", "--device", "virtual:mouse"]
    assert subprocess.check_output([*command, "--", sys.executable, "-c", text], text=True) == "0525 1209\n"


def test_the_devices_come_back_as_often_as_they_are_asked_for():
    text = (
        "import usb.backend.libusb1 as one, usb.core; assert one.get_backend() is one.get_backend(find_library=print)"
    )
    assert out(sys.executable, "-c", text) == ""


def test_a_program_without_pyusb_notices_nothing():
    text = "import sys; print([m for m in sys.modules if m.startswith(('usb', 'asyncio', 'usbferry'))])"
    assert out(sys.executable, "-c", text) == "[]\n"


# -- the program's own -------------------------------------------------------------------------------------------------


def test_its_own_sitecustomize_is_not_lost(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.mine = __file__")
    text = f"import sys, sitecustomize; assert sitecustomize.__file__ == sys.mine; print(sys.mine); {USES}"
    shown = out(sys.executable, "-c", text, PYTHONPATH=str(tmp_path))
    assert shown == f"{tmp_path / 'sitecustomize.py'}\n{SAYS}"


def test_its_own_path_is_kept(tmp_path):
    text = "import os, sys; print(sys.path[1], os.environ['PYTHONPATH'].split(os.pathsep)[-1], len(sys.path))"
    plain = subprocess.check_output(
        [sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True
    )
    assert out(sys.executable, "-c", text, PYTHONPATH=str(tmp_path)) == plain


@pytest.mark.slow
def test_an_environment_without_usbferry_is_no_obstacle(tmp_path):
    """Nothing but our package comes from ours: no click, no pytest."""
    venv.create(tmp_path, symlinks=sys.platform != "win32")
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path), "platbase": str(tmp_path)}))
    shutil.copytree(Path(usb.__file__).parent, site / "usb")
    python = str(tmp_path / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
    assert out(python, "-c", USES) == SAYS
    text = "import importlib.util as i; print(*[n for n in ('click', 'pytest', 'usbferry') if i.find_spec(n)])"
    assert out(python, "-c", text) == "usbferry\n"
    hidden = {**run.environment(["virtual:zero"]), "USBFERRY_RUN_HOME": str(tmp_path)}  # as if in another user's home
    done = subprocess.run([python, "-c", USES], env=hidden, capture_output=True, text=True)
    remedy = f"install it there too, or let this user read {tmp_path}"
    told = f"usbferry run: {python} cannot import usbferry (No module named 'usbferry'); {remedy}\n"
    assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_program_of_libusbs_is_told_that_it_has_none_of_them(tmp_path):
    """It is started all the same. What is no such program may start one of pyusb's, and nothing is said."""
    source, far = "int main(void) { return 3; }", "libusb-1.0.so.0"
    subprocess.run(
        ["cc", "-shared", "-o", str(tmp_path / far), f"-Wl,-soname,{far}", "-xc", "-"], input=b"", check=True
    )
    linked = ["-Wl,--no-as-needed", str(tmp_path / far), f"-Wl,-rpath,{tmp_path}"]
    for name, words in (("lists", linked), ("plain", [])):
        subprocess.run(
            ["cc", "-o", str(tmp_path / name), "-xc", "-", "-xnone", *words], input=source.encode(), check=True
        )
    done, plain = started(str(tmp_path / "lists")), started(str(tmp_path / "plain"))
    said = f"usbferry run: {tmp_path / 'lists'} uses libusb and not pyusb: it finds this machine's own devices, "
    assert (done.returncode, done.stderr.startswith(said), done.stderr.count("\n")) == (3, True, 1)
    assert (plain.returncode, plain.stderr) == (3, "")


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 77])
def test_its_exit_status_is_ours(status):
    assert started(sys.executable, "-c", f"{USES}; raise SystemExit({status})").returncode == status


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_its_signals_are_its_own(number):
    text = f"{USES}; import sys, time; sys.stdout.flush(); time.sleep(60)"
    command = [sys.executable, "-m", "usbferry", "run", "--device", "virtual:zero", sys.executable, "-c", text]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == SAYS
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)


@POSIX
def test_a_pipe_that_nobody_reads_ends_it_as_any_other(tmp_path):
    """Python ignores SIGPIPE, and a program that it becomes would inherit that."""
    text = "trap '' TERM; grep SigIgn /proc/self/status" if Path("/proc/self/status").exists() else "echo 0"
    mask = int(out("sh", "-c", text).split()[-1], 16)
    assert mask & 1 << signal.SIGPIPE - 1 == 0


# -- what cannot be ----------------------------------------------------------------------------------------------------


def refused(*words: str) -> str:
    result = CliRunner().invoke(main, ["run", *words])
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    return line


def test_an_address_without_sense():
    assert "no kind of address 'bluetooth'" in refused("--device", "bluetooth:headset", "--", sys.executable)


def test_no_such_program():
    assert refused("--device", "virtual:zero", "prog-of-nobody") == "usbferry run: there is no program 'prog-of-nobody'"


@POSIX
def test_a_program_that_this_user_may_not_see(tmp_path, monkeypatch):
    """To root nothing is hidden, so the system's refusal is made here."""
    hidden, stat = f"{tmp_path}/hidden/prog", os.stat

    def refuse(path, *words, **more):
        if os.fspath(path) == hidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return stat(path, *words, **more)

    monkeypatch.setattr(os, "stat", refuse)
    assert refused("--device", "virtual:zero", hidden) == f"usbferry run: there is no program {hidden!r}"


@POSIX
def test_a_program_that_is_not_executable(tmp_path):
    path = tmp_path / "prog.py"
    path.write_text(USES)
    assert refused("--device", "virtual:zero", str(path)).endswith(f"if it is a Python program, write: python {path}")
    path.chmod(0o755)
    assert refused("--device", "virtual:zero", str(path)).endswith("cannot be started: Exec format error")
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN, "or the next closed connection would end this process"


@POSIX
@pytest.mark.parametrize("flags", ["-I", "-sE", "-B -E", "-S"])
def test_a_python_that_would_not_hear_of_us(flags, tmp_path):
    assert "ignore PYTHONPATH" in refused("--device", "virtual:zero", sys.executable, *flags.split(), "prog.py")
    path = script(tmp_path / "prog", USES)
    path.write_text(f"#!{sys.executable} {flags.split()[-1]}\n{USES}")
    assert "ignore PYTHONPATH" in refused("--device", "virtual:zero", str(path))


def test_what_looks_like_such_a_flag_is_none():
    assert not run._is_isolated(["python3", "-c", "-I"])
    assert not run._is_isolated(["python3", "-m", "prog", "-E"])
    assert not run._is_isolated(["python3", "prog.py", "-I"])
    assert not run._is_isolated(["prog", "-I"])


def test_an_old_python_is_told_so():
    text = f"import sys; sys.version_info = (3, 9, 18, 'final', 0); {USES}"
    done = started(sys.executable, "-c", text)
    told = f"usbferry run: {sys.executable} is Python 3.9; it must be 3.11 or later; install the program for"
    assert (done.returncode, done.stderr) == (2, f"{told} a newer one\n")


def test_a_server_that_is_not_there_is_told():
    command = [sys.executable, "-m", "usbferry", "run", "--device", "usbip://127.0.0.1:1", "--", sys.executable, "-c"]
    done = subprocess.run([*command, "import usb.core; print(usb.core.find())"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "None\n")
    assert done.stderr == "usbferry: no connection to 127.0.0.1:1: Connection refused; is a server running there?\n"


# -- pyusb's releases --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("release", ["1.2.1", "1.3.0", "1.3.1"])
def test_a_release_of_pyusb(release, tmp_path):
    """They differ in how they keep their backends; all ask `get_backend` of this module first."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    got = subprocess.run([*pip, "--target", str(tmp_path), f"pyusb=={release}"], capture_output=True, text=True)
    if got.returncode:
        assert not os.environ.get("USBFERRY_REQUIRE_KERNEL"), got.stderr
        pytest.skip(f"pyusb {release} cannot be had: {got.stderr.strip().splitlines()[-1]}")
    text = textwrap.dedent(
        """
        import usb, usb.core, usb.backend.libusb1 as one
        print(usb.__file__.startswith({where!r}), one.get_backend().__module__)
        """
    ).format(where=str(tmp_path))
    shown = out(sys.executable, "-c", f"{text}\n{USES}", PYTHONPATH=str(tmp_path))
    assert shown == f"True usbferry.local.pyusb\n{SAYS}"
