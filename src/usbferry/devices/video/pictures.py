"""Where a camera's pictures come from, written as text.

    card                  the test card (test_card.py)
    file:PATH             one picture
    directory:PATH        all pictures of a folder, by name, again and again
    mjpeg:PATH            JPEGs one after the other: a file, again and again, or a FIFO that programs write to
    tcp://HOST:PORT       the same from a server (see bridges)
    listen://HOST:PORT    the same from a client

JPEGs go to the host as they are. With Pillow (`usbferry[pictures]`) a file may be of any kind and size, and become
YUY2. What comes live is shown as it is now: the host gets the newest picture, once more where no newer one came. A
JPEG of more bytes than a host has room for is left out, or made smaller where Pillow can.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final

from ...device import DeviceError
from ..bridges.bridge import Bridge, BridgeOptions
from ..bridges.bridge import make as make_bridge
from ..bridges.fifo import FifoReader
from ..bridges.stream import ByteQueue
from . import converting, jpeg, test_card
from .lens import Lens
from .looks import Looks
from .uvc import Coding, most_bytes

log: Final = logging.getLogger(__name__)
Size = tuple[int, int]
_KINDS: Final = (".jpg", ".jpeg")
_MORE_KINDS: Final = (*_KINDS, ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # with Pillow
_QUEUED: Final = 1 << 20  # bytes of a live stream between two looks at it
_HELD: Final = 64 << 20  # bytes of converted pictures; others of a large folder are converted each time
_LARGEST: Final = 16 << 20  # bytes of one picture that comes live
_BEGINNING: Final = b"\xff\xd8\xff"  # which no picture has in its middle, but for a thumbnail


class Pictures:
    """Gives pictures. `codings` are those it has; `sizes` are all that it can have, or None for any."""

    codings: tuple[Coding, ...] = (Coding.MJPEG, Coding.YUY2)
    sizes: tuple[Size, ...] | None = None
    own_size: Size | None = None  # what is shown when nobody asks for another
    arrived: Callable[[], None] = staticmethod(lambda: None)  # the camera's: there is a first picture
    heeds: bool = False  # whether it heeds `lens` and `looks`
    lens: Lens | None = None  # the camera's: how pictures are to be taken
    looks: Looks | None = None  # and how they are to look

    def check(self, size: Size) -> None:
        """Raises ValueError for a size that it cannot have."""

    async def begin(self) -> None:
        """The camera came into being. Raises DeviceError."""

    async def end(self) -> None:
        """It ceased to be."""

    def start(self, coding: Coding, size: Size) -> None:
        """A host begins to watch."""

    def next(self) -> bytes | memoryview | None:
        """The next picture, or None when there is none yet."""
        raise NotImplementedError


class Card(Pictures):
    """Counts from 0 for each host that begins."""

    heeds = True

    def check(self, size: Size) -> None:
        test_card.check(*size)

    def start(self, coding: Coding, size: Size) -> None:
        self._coding, self._size = coding, size
        self._number = 0

    def next(self) -> bytes:
        number, self._number = self._number, self._number + 1
        lens = self.lens if self.lens is not None and not self.lens.is_neutral else None
        looks = self.looks if self.looks is not None and not self.looks.is_neutral else None
        return test_card.card(number, *self._size, self._coding, looks, lens)


class Files(Pictures):
    """Pictures of files, each for one turn. They are read and looked at now, and converted when they are first shown.

    What turns out to be broken then is left out, and that is said.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._raw = [path.read_bytes() for path in paths]
        self._converts = converting.is_there()
        if self._converts:
            first, *_ = [converting.size_of(path, raw) for path, raw in zip(paths, self._raw, strict=True)]
            self.sizes = None
        else:
            self.codings = (Coding.MJPEG,)
            found = [_jpeg_size(path, raw) for path, raw in zip(paths, self._raw, strict=True)]
            if odd := [path for path, size in zip(paths, found, strict=True) if size != found[0]]:
                raise ValueError(f"{odd[0]} is not as large as {paths[0]}; {converting.remedy()}")
            first = found[0]
            self.sizes = (first,)
        self.own_size = first
        self._shown: dict[int, bytes] = {}
        self._left_out: set[int] = set()

    def start(self, coding: Coding, size: Size) -> None:
        self._coding, self._size = coding, size
        self._number = self._held = 0
        self._shown, self._left_out = {}, set()

    def next(self) -> bytes | None:
        for _ in self._raw:
            at, self._number = self._number % len(self._raw), self._number + 1
            if at not in self._left_out and (picture := self._picture(at)) is not None:
                return picture
        return None

    def _picture(self, at: int) -> bytes | None:
        if at in self._shown:
            return self._shown[at]
        try:
            picture = self._convert(self._raw[at])
            _check_room(picture, self._size)
        except (ValueError, OSError, SyntaxError) as error:  # the last one is Pillow's, of a broken PNG
            log.warning("%s is left out: %s", self._paths[at], error)
            self._left_out.add(at)
            return None
        if self._held + len(picture) <= _HELD:
            self._held += len(picture)
            self._shown[at] = picture
        return picture

    def _convert(self, raw: bytes) -> bytes:
        if not self._converts:
            return raw
        is_jpeg = self._coding is Coding.MJPEG and raw.startswith(b"\xff\xd8")
        if is_jpeg and jpeg.size_of(raw) == self._size and len(raw) <= most_bytes(self._size):
            return raw
        return converting.converted(raw, self._size, self._coding)


class Film(Pictures):
    """A file of JPEGs, mapped, from its start for each host, again and again."""

    codings = (Coding.MJPEG,)

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            start = file.read(_LARGEST)  # what is before the size may be long: comments, colours, a thumbnail
        self.own_size = _jpeg_size(path, start)
        self.sizes = (self.own_size,)
        self._map: mmap | None = None

    async def begin(self) -> None:
        try:
            with self._path.open("rb") as file:
                self._map = mmap(file.fileno(), 0, access=ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DeviceError(f"{self._path} cannot be read: {error}") from error

    async def end(self) -> None:
        self._map = None

    def start(self, coding: Coding, size: Size) -> None:
        self._at, self._told = 0, False
        self._has_any = True

    def next(self) -> bytes | None:
        """What follows the last whole picture is left out, as are those that a host has no room for."""
        assert self._map is not None
        turns = 2 if self._has_any else 0
        while turns:
            start = self._at
            self._at = self._end_of(self._map, start)
            if not self._at:
                turns -= 1
            elif self._has_room(self._at - start):
                return self._map[start : self._at]
        self._has_any = False
        return None

    def _end_of(self, film: mmap, start: int) -> int:
        with suppress(jpeg.NoPicture):
            return jpeg.Ending(start).find(film, start + _LARGEST)
        return 0

    def _has_room(self, length: int) -> bool:
        assert self.own_size is not None
        most = most_bytes(self.own_size)
        if length > most and not self._told:
            log.warning("%s: a picture is left out: %s", self._path, _too_large(length, most))
            self._told = True
        return length <= most


class Live(Pictures):
    """JPEGs from a bridge. One whose size is not that of the stream is left out, and that is said once."""

    codings = (Coding.MJPEG,)

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self._newest: tuple[Size, bytes] | None = None
        self._collected = bytearray()
        self._ending = jpeg.Ending()  # of the picture that this begins with
        self._size: Size | None = None
        self._told = self._told_large = False

    async def begin(self) -> None:
        self._queue = ByteQueue(_QUEUED)
        await self.bridge.start(self._queue, ByteQueue())
        self._queue.filled = self._collect
        self._collect()

    async def end(self) -> None:
        await self.bridge.stop()

    def start(self, coding: Coding, size: Size) -> None:
        self._size = size
        self._told = self._told_large = False
        if self._newest is not None and self._newest[0] != size:
            self._newest = None

    def next(self) -> bytes | None:
        return None if self._newest is None else self._newest[1]

    def _collect(self) -> None:
        self._collected += self._queue.take(_QUEUED)
        while length := self._whole():
            picture = bytes(self._collected[:length])
            self._pass(length)
            self._came(picture)

    def _pass(self, length: int) -> None:
        del self._collected[:length]
        self._ending = jpeg.Ending()

    def _whole(self) -> int:
        """How long the picture at the start is, 0 while it is not whole. What is no picture is passed over."""
        while True:
            try:
                length = self._ending.find(self._collected)
            except jpeg.NoPicture:
                at = self._collected.find(_BEGINNING, 1)
            else:
                if length or len(self._collected) < _LARGEST:
                    return length
                at = -1  # what begins in there is not looked at: it would be as long again, each time
            self._pass(at if at >= 0 else max(1, len(self._collected) - 2))
            if at < 0:
                return 0

    def _came(self, picture: bytes) -> None:
        try:
            size = jpeg.size_of(picture)
        except jpeg.NoPicture:
            return  # what does not say how large it is, is none
        if self._size is not None and size != self._size:
            if not self._told:
                wanted, got = ("x".join(map(str, one)) for one in (self._size, size))
                log.warning("%s sends %s where the host has chosen %s: not shown", self.bridge, got, wanted)
                self._told = True
            return
        if len(picture) > most_bytes(size):
            if not self._told_large:
                why = _too_large(len(picture), most_bytes(size))
                log.warning("%s: a picture is left out: %s", self.bridge, why)
                self._told_large = True
            return
        is_first, self._newest = self._newest is None, (size, picture)
        if is_first:
            self.arrived()


def _check_room(picture: bytes, size: Size) -> None:
    if len(picture) > most_bytes(size):
        raise ValueError(_too_large(len(picture), most_bytes(size)))


def _too_large(length: int, most: int) -> str:
    return f"it has {length} bytes, of its size a host takes {most}: use a lower quality"


def _jpeg_size(path: Path, raw: bytes) -> Size:
    try:
        return jpeg.size_of(raw)
    except jpeg.NoPicture as error:
        raise ValueError(f"{path} is no JPEG: {error}; {converting.remedy()}") from None


def make(text: str) -> Pictures:
    """The pictures that `text` names. Raises ValueError with a text for the user, or OSError."""
    kind, _, rest = text.partition(":")
    if text == "card":
        return Card()
    if kind in ("file", "directory", "mjpeg"):
        if not rest:
            raise ValueError(f"{kind}: needs a path, as in source={kind}:PATH")
        return _of_path(kind, Path(rest).expanduser())
    if kind in ("tcp", "listen"):
        return Live(make_bridge(text))
    raise ValueError(
        f"{text!r} are no pictures: write card, file:PATH, directory:PATH, mjpeg:PATH, tcp://HOST:PORT"
        " or listen://HOST:PORT"
    )


def _of_path(kind: str, path: Path) -> Pictures:
    if kind == "file":
        return Files([path])
    if kind == "directory":
        kinds = _MORE_KINDS if converting.is_there() else _KINDS
        found = sorted(one for one in path.iterdir() if one.suffix.lower() in kinds)
        if not found:
            raise ValueError(f"{path} has no pictures: there are no files {', '.join(f'*{one}' for one in kinds)}")
        return Files(found)
    if path.is_file():
        return Film(path)
    if not path.exists():
        log.warning("there is no file %s: it is made a FIFO, for programs to write pictures to", path)
    return Live(FifoReader(BridgeOptions(str(path))))
