"""The command line: one file per verb, each imported when it is called."""

from __future__ import annotations

import io
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, NoReturn

import click

# verb -> one line of help; `usbferry.cli.VERB` has the click command `command`
VERBS: Final = {
    "attach": "Give a device to this machine's kernel.",
    "demo": "See it work in two processes, without USB hardware or root.",
    "detach": "Take devices from this machine's kernel again.",
    "info": "Show everything a device says of itself.",
    "keep": "Keep devices attached to this machine's kernel.",
    "list": "List devices, here and at other machines.",
    "new": "Write a device of your own to start from.",
    "ports": "List what is attached to this machine's kernel.",
    "run": "Run a program of pyusb with devices from anywhere.",
    "serve": "Offer devices to other machines.",
    "udev-rule": "Print the rule that lets users have USB devices on Linux.",
    "wireshark": "Have Wireshark decode ferry and usbredir.",
}
# what other tools call it -> the verb
_OTHERS: Final = {
    "bind": "serve",
    "connect": "attach",
    "create": "new",
    "disconnect": "detach",
    "export": "serve",
    "follow": "list --follow",
    "import": "attach",
    "init": "new",
    "ls": "list",
    "monitor": "list --follow",
    "share": "serve",
    "show": "info",
    "status": "ports",
    "watch": "list --follow",
}


class _Verbs(click.Group):
    """Lists every verb without importing one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS]  # `list` is a module here, once it is imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f".{cmd_name.replace('-', '_')}", __name__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in VERBS and not word.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches  # here alone: every start would pay for it

            meant = _OTHERS.get(word) or next(iter(get_close_matches(word, VERBS, 1)), None)
            there = f"did you mean {meant!r}?" if meant else f"there are: {', '.join(VERBS)}"
            ctx.fail(f"there is no command {word!r}; {there}")
        return super().resolve_command(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        _let_nothing_be_unprintable()
        with _one_line("usbferry"):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _one_line(ctx):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(128 + signal.SIGINT)  # as a shell has it; click's own way is a word, and 1

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*VERBS.items()])


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="usbferry", prog_name="usbferry")
def main() -> None:
    """Carry USB devices across machines: any device, to any user of it."""


def _let_nothing_be_unprintable() -> None:
    """What an output cannot say is a question mark there: in a name, in a frame, where Windows has a code page."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def _one_line(ctx: click.Context | str) -> Iterator[None]:
    """What click says in four lines over wrong words on the command line, in one, as all other errors."""
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click's since 8.2: the help is all that it says
            raise
        verb = ctx if isinstance(ctx, str) else f"usbferry {ctx.invoked_subcommand or ''}".rstrip()
        fail(f"{verb}: {_in_one_line(error, verb)}")


def _in_one_line(error: click.UsageError, verb: str) -> str:
    """The message, with what was meant, or how the command is written."""
    text = error.format_message().rstrip(".")
    text = text[:1].lower() + text[1:]
    if meant := re.search(r"\.? \(?Did (you mean .*?)\)?$", text):
        return f"{text[: meant.start()]}; did {meant[1]}"
    if "; " in text:
        return text
    if isinstance(error, click.NoSuchOption):
        return f"{text}; {verb} --help has them all"
    is_of_value = isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter)
    if error.ctx is None or is_of_value:
        return f"{text}; see {verb} --help"
    usage = " ".join(error.ctx.command.collect_usage_pieces(error.ctx))
    return f"{text}; write it as {verb} {usage}"


def fail(text: str, status: int = 2) -> NoReturn:
    """End with one line for the user, or one for each of several candidates, and an exit status."""
    for line in text.split("\n"):
        print(printable(line), file=sys.stderr)
    sys.exit(status)


def printable(text: str) -> str:
    """A text that came from a device or another machine, without what would steer the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
