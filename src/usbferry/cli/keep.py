"""`usbferry keep`: devices that are attached to this machine's kernel whenever they are there."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import click

from ..device import DeviceError
from ..local import keep_status, rules
from ..local.keep import Keeper
from ..local.keep_status import SCHEMA, status_of
from ..local.kernel import Kernel
from ..local.rules import Rules
from ..local.vhci import Vhci
from ..usb.info import title
from . import fail, printable
from .address import whole_address
from .logs import configure_logging
from .serve import on_signal, run

_WRONG_FILE: Final = 78  # EX_CONFIG of sysexits.h, and of RestartPreventExitStatus= in the unit file
_RULES: Final = "/etc/usbferry/keep.toml"  # in the unit file


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Rules in TOML; see docs/keep.md.")
@click.option("--relay", is_flag=True, help="For ADDRESS: through this process, which checks all of it.")
@click.option("--status", is_flag=True, help="Show what is kept by those that run, and end.")
@click.option("--json", "as_json", is_flag=True, help=f"With --status: print JSON, schema {SCHEMA}.")
@click.option("--unit", is_flag=True, help="Print a unit file for systemd, for --config if given, and end.")
@click.option("-v", "--verbose", count=True, help="Say more; -vv: every transfer of relays.")
def command(
    addresses: tuple[str, ...],
    config: Path | None,
    relay: bool,
    status: bool,
    as_json: bool,
    unit: bool,
    verbose: int,
) -> None:
    """Keep devices attached to this machine's kernel. Linux, as root.

    \b
    An ADDRESS is such as
      usbip://HOST/046d:*             every device of a machine that a selector means
      usbip://HOST/1-2                whatever is plugged in there
      virtual:disk?image=stick.img    a virtual device

    Each is attached as soon as it appears, and again after its server was restarted, the network was down, or it came
    back under another vid:pid. Without ADDRESS, rules are read from a file: --config, or keep.toml in
    ~/.config/usbferry or /etc/usbferry.

    It says a line for each event, stays in the foreground, and detaches everything on Ctrl-C or SIGTERM; SIGHUP reads
    the file again. A device that somebody detaches by hand is left alone until he attaches it again.
    """
    if status and (addresses or config is not None or relay or unit):
        fail("usbferry keep: --status shows everything that is kept: leave out the rest")
    if as_json and not status:
        fail("usbferry keep: --json is for --status")
    if unit and (addresses or relay):
        fail(
            "usbferry keep: --unit is for a file of rules: leave out ADDRESS and --relay, and write them into the file"
        )
    if status:
        _show(as_json)
    elif unit:
        print(_unit(config), end="")
    else:
        configure_logging(verbose)
        _keep(addresses, config, relay)


class _WrongFile(ValueError):
    """The file of rules cannot be read, or has a mistake: to try again does not help, which systemd is to know."""


def _keep(addresses: tuple[str, ...], config: Path | None, relay: bool) -> None:
    def read() -> Rules:
        if addresses:
            return rules.from_addresses([whole_address(one) for one in addresses], relay=relay)
        path = _file(config)
        try:
            return rules.read(path)
        except ValueError as error:
            raise _WrongFile(str(error)) from error
        except OSError as error:
            raise _WrongFile(f"{path}: {error.strerror or error}") from error

    if addresses and config is not None:
        fail("usbferry keep: either ADDRESS or --config: write the address into the file")
    try:
        found = read()
        Vhci().check()
        run(_run(found, read))
    except _WrongFile as error:
        fail(f"usbferry keep: {error}", _WRONG_FILE)
    except (DeviceError, ValueError) as error:
        fail(f"usbferry keep: {error}")
    except OSError as error:
        fail(f"usbferry keep: {error.filename or ''}: {error.strerror or error}")


def _file(config: Path | None) -> Path:
    """The file of rules. Raises ValueError when there is none."""
    if config is not None:
        return config
    for path in rules.paths():
        if path.exists():
            return path
    places = " nor at ".join(map(str, rules.paths()))
    raise ValueError(f"name an ADDRESS, such as usbip://HOST/046d:*; there is no file of rules at {places}")


async def _run(found: Rules, read: Callable[[], Rules]) -> None:
    """Keep until SIGTERM or SIGINT, then detach."""
    stop = on_signal()
    async with asyncio.TaskGroup() as tasks:
        keeper = Keeper(found, Kernel(tasks), lambda text: tell(text))
        status = status_of(keeper.status)

        def tell(text: str) -> None:
            print(printable(text), file=sys.stderr, flush=True)
            status.write_soon()

        def reload() -> None:
            try:
                keeper.reload(read())
            except (ValueError, OSError) as error:
                tell(f"the rules stay as they were: {error}")
            else:
                tell("the rules were read again")

        with suppress(NotImplementedError, AttributeError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        keeping = tasks.create_task(keeper.run())
        try:
            tell(f"keeping {', '.join(rule.name for rule in found.rules)}; Ctrl-C detaches")
            await stop()
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            status.close()


# -- what those that run keep ------------------------------------------------------------------------------------------


def _show(as_json: bool) -> None:
    keepers = keep_status.read()
    if as_json:
        print(json.dumps({"schema": SCHEMA, "keepers": keepers}, indent=2))
        return
    for one in keepers:
        print(f"process {one['pid']}")
        for place in one["places"]:
            error = f": {place['error']}" if place["error"] else ""
            print(printable(f"  {place['address']}{error}"))
            for device in place["devices"]:
                print(printable(f"    {_line(device)}"))
    if not keepers:
        print("nothing is kept here")


def _line(one: dict[str, Any]) -> str:
    name = title(one["manufacturer"], one["product"])
    where = f"port {one['port']}" if one["port"] is not None else one["reason"] or ""
    words = (one["name"], f"{one['vendor_id']}:{one['product_id']}", name, one["state"], where)
    return "  ".join(word for word in words if word)


def _unit(config: Path | None) -> str:
    """The unit file, with this very program in it, and the file of rules that is meant."""
    started = Path(sys.argv[0]).resolve()  # by `python -m` it is a file that nothing can start
    program = f"{sys.executable} -m usbferry" if started.name == "__main__.py" else started
    text = files("usbferry").joinpath("local/usbferry-keep.service").read_text(encoding="utf-8")
    text = text.replace("ExecStart=usbferry ", f"ExecStart={program} ")
    if config is None:
        return text
    path = config.absolute()
    quoted = str(path).replace("%", "%%").replace("$", "$$").replace("\\", "\\\\").replace('"', '\\"')
    written = quoted if str(path) == quoted and " " not in quoted else f'"{quoted}"'
    return text.replace(f"--config {_RULES}", f"--config {written}").replace(f"in {_RULES};", f"in {path};")
