"""`serve --on` and `--to`: where protocols are served. Some serve one device at each place."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from functools import partial

from ..device import DeviceError
from ..local import state
from ..registry import PROTOCOLS, UnknownName, load_exporter
from ..server.catalog import Catalog
from ..server.listen import MakeExporter, Server
from ..transports.place import Place, parse

SERVED = {"--on": tuple(PROTOCOLS), "--to": tuple(name for name, row in PROTOCOLS.items() if row.connects)}


@dataclass(frozen=True, slots=True)
class Outlet:
    """One `--on` or `--to`."""

    protocol: str
    place: Place
    option: str

    @classmethod
    def parse(cls, text: str, option: str) -> Outlet:
        """Raises ValueError with a text for the user."""
        protocol = text.partition(":")[0].partition("+")[0]
        if protocol not in SERVED[option]:
            known = ", ".join(SERVED[option])
            raise UnknownName(f"{option} {text!r}: write it as PROTOCOL://..., with one of: {known}")
        _check_options(text, option)
        place = parse(text, PROTOCOLS[protocol].port, is_made=option == "--on")
        if place.name and PROTOCOLS[protocol].chooses:
            raise ValueError(f"{option} {text!r}: {protocol} serves every device; leave out /{place.name}")
        if option == "--to" and not (place.host or place.path):
            raise ValueError(f"--to {text!r}: name the host to connect to, as in {protocol}://vm:4000")
        return cls(protocol, place, option)

    def check(self, catalog: Catalog) -> None:
        """Whether it is clear which device is meant. Raises DeviceError with the remedy."""
        names = [offer.info.name for offer in catalog.list()]
        if self.place.name and self.place.name not in names:
            raise DeviceError(f"{self.option} {self}: there is no device {self.place.name!r} here, {_there(names)}")
        if len(names) > 1 and not self.place.name and not PROTOCOLS[self.protocol].chooses:
            example = f"{self._scheme}://{self.place.naming(names[0]).whole}"
            raise DeviceError(f"{self.option} {self}: say which device, as in {example}; {_there(names)}")

    async def listen(self, server: Server) -> tuple[list[str], list[str]]:
        """Serve there; what to tell the user, and the addresses it really has, with the device that is alone there.

        Raises DeviceError with the remedy.
        """
        try:
            places = await server.listen_at(self.place, self._exporter)
        except OSError as error:
            raise cannot_listen(self.place, error, self.option) from error
        notes = []
        if not all(place.is_of_this_machine for place in places):
            notes.append(f"note: {self.protocol} has no passwords; whoever reaches this port can use the device")
        notes += [f"listening on {self._scheme}://{place}" for place in places]
        return notes, [f"{self._scheme}://{place.whole}" for place in places]

    def connect(self, server: Server) -> str:
        """Serve to who listens there; what to tell the user."""
        server.connect_to(self.place, self._exporter)
        return f"connecting to {self}"

    @property
    def _exporter(self) -> MakeExporter:
        exporter = load_exporter(self.protocol)
        one = not PROTOCOLS[self.protocol].chooses
        made: MakeExporter = partial(exporter, name=self.place.name) if one else exporter
        return made

    @property
    def _scheme(self) -> str:
        return self.place.scheme(self.protocol)

    def __str__(self) -> str:
        return f"{self._scheme}://{self.place}"


def cannot_listen(place: Place, error: OSError, option: str) -> DeviceError:
    """The error, with the remedy: another place, by `option`, or the end of our own server that has this one."""
    another = f"choose another with {option}"
    if error.errno == errno.EADDRINUSE and (pid := state.listener(place)) is not None:
        another = f"end usbferry's process {pid}, or {another}"
    return DeviceError(f"cannot listen on {place}: {place.no_listening(error, another)}")


def _check_options(text: str, option: str) -> None:
    """Raises ValueError for what is said of a source's address, and not of a place."""
    place, _, query = text.partition("?")
    for part in query.split("&"):
        key = part.partition("=")[0]
        if key == "buffer":
            raise ValueError(f"{option} {text!r}: leave out {part}; a server's buffer is --buffer SECONDS")
        if key == "mode" and ":///" not in place:
            raise ValueError(f"{option} {text!r}: leave out {part}; only a socket file has a mode")
        if key == "mode" and option == "--to":
            raise ValueError(f"{option} {text!r}: leave out {part}; who listens there makes the file")


def _there(names: list[str]) -> str:
    return f"there are: {', '.join(names)}" if names else "there is none now"
