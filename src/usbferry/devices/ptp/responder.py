"""The operations of an MTP device: what each answers, of a folder that is only read, or written too.

    Request, and data of the host's  -->  Reply: a code, parameters, and data: bytes, or a piece of an object

Source: Media Transfer Protocol 1.1 appendix D.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from . import packing, properties
from .codes import FRIENDLY_NAME, ROOT, STORAGE_ID, WRITES, Event, Format, Operation, Property, Response, Type
from .packing import array, number, text
from .store import Entry, NoObject, Store, is_name

log: Final = logging.getLogger(__name__)

_EXTENSION: Final = 6  # Microsoft's, which is MTP
_VERSION: Final = 100
_FIXED_RAM: Final = 3
_HIERARCHY: Final = 2  # a file system with folders
_READ_WRITE, _READ_ONLY = 0, 1
_LARGEST: Final = 0xFFFF_FFFE  # of an object whose size is said in 32 bits

# What ends the wait for an object that was announced.
_BEGINS: Final = (Operation.OPEN_SESSION, Operation.CLOSE_SESSION, Operation.SEND_OBJECT_INFO)
# Errors of the folder that say what they are; any other is general.
_ERRORS: Final = {
    FileNotFoundError: Response.INVALID_HANDLE,
    NotADirectoryError: Response.INVALID_HANDLE,
    NoObject: Response.INVALID_HANDLE,
    FileExistsError: Response.ACCESS_DENIED,
    PermissionError: Response.ACCESS_DENIED,
}


class Refused(Exception):
    """An operation that ends with nothing but this code."""

    def __init__(self, code: Response) -> None:
        super().__init__(code.name)
        self.code = code


class Request(NamedTuple):
    """A command of the host's; parameters that it left out are zero."""

    code: int
    transaction: int
    parameters: tuple[int, ...]


class Piece(NamedTuple):
    """Of an object, read when the host fetches it."""

    handle: int
    offset: int
    size: int


@dataclass(slots=True)
class Reply:
    """What an operation ends with."""

    code: Response = Response.OK
    parameters: tuple[int, ...] = ()
    data: bytes | Piece | None = None


@dataclass(slots=True)
class Coming:
    """An object that the host said it would send."""

    handle: int
    part: Path
    size: int  # bytes, or packing.UNKNOWN
    got: int = 0
    failed: OSError | None = None


class About(NamedTuple):
    """What the device says of itself."""

    manufacturer: str
    model: str
    serial: str


class Responder:
    """One session of it. `store` may block, and is asked in threads."""

    def __init__(self, store: Store, about: About, is_writable: bool) -> None:
        self._store, self._about, self._is_writable = store, about, is_writable
        self.session = 0
        self.coming: Coming | None = None
        self._abandoned: list[Path] = []

    async def done(self, request: Request, data: bytes) -> Reply:
        """Do what a host asks for; `data` is what came with it, unless that was an object."""
        try:
            return await self._done(request, data)
        except Refused as refused:
            return Reply(refused.code)
        except packing.BadData:
            return Reply(Response.INVALID_DATASET)
        except (OSError, NoObject, RecursionError) as error:  # the last of folders deeper than `rmtree` can go
            if type(error) not in _ERRORS:
                log.warning("%s: %s", self._store.folder, error)
            return Reply(_ERRORS.get(type(error), Response.GENERAL_ERROR))

    async def _done(self, request: Request, data: bytes) -> Reply:
        does = _DONE.get(request.code)
        if does is None:
            raise Refused(Response.NOT_SUPPORTED)
        if not self.session and request.code not in (Operation.GET_DEVICE_INFO, Operation.OPEN_SESSION):
            raise Refused(Response.SESSION_NOT_OPEN)
        if request.code in WRITES and not self._is_writable:
            raise Refused(Response.STORE_READ_ONLY)
        values = (*request.parameters, 0, 0, 0, 0, 0)
        if request.code in _BEGINS:
            await self.drop()
        reply: Reply = await does(self, values, data)
        return reply

    async def _ask(self, work: Callable[..., Any], *words: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, work, *words)

    # -- the device and its session -----------------------------------------------------------------------------------

    async def _device_info(self, values: tuple[int, ...], data: bytes) -> Reply:
        about = self._about
        operations = [one for one in Operation if self._is_writable or one not in WRITES]
        said = [
            number(Type.U16, _VERSION),
            number(Type.U32, _EXTENSION),
            number(Type.U16, _VERSION),
            text("microsoft.com: 1.0;"),
            number(Type.U16, 0),  # its mode
            array(Type.U16, operations),
            array(Type.U16, Event),
            array(Type.U16, (FRIENDLY_NAME,)),
            array(Type.U16, ()),  # it takes no pictures
            array(Type.U16, Format),
            *map(text, (about.manufacturer, about.model, "1.0", about.serial)),
        ]
        return Reply(data=b"".join(said))

    async def _open(self, values: tuple[int, ...], data: bytes) -> Reply:
        if not values[0]:
            raise Refused(Response.INVALID_PARAMETER)
        if self.session:
            return Reply(Response.SESSION_OPEN, (self.session,))
        self.session = values[0]
        return Reply()

    async def _close(self, values: tuple[int, ...], data: bytes) -> Reply:
        self.session = 0
        return Reply()

    async def _device_property(self, values: tuple[int, ...], data: bytes) -> Reply:
        if values[0] != FRIENDLY_NAME:
            raise Refused(Response.DEVICE_PROP_NOT_SUPPORTED)
        return Reply(data=text(self._store.folder.name or self._about.model))

    async def _device_property_described(self, values: tuple[int, ...], data: bytes) -> Reply:
        now = (await self._device_property(values, data)).data
        assert isinstance(now, bytes)
        head = number(Type.U16, FRIENDLY_NAME) + number(Type.U16, Type.TEXT) + b"\0"  # it is only read
        return Reply(data=head + now + now + b"\0")

    # -- the storage --------------------------------------------------------------------------------------------------

    async def _storages(self, values: tuple[int, ...], data: bytes) -> Reply:
        return Reply(data=array(Type.U32, (STORAGE_ID,)))

    async def _storage_info(self, values: tuple[int, ...], data: bytes) -> Reply:
        _check_storage(values[0])
        total, free = await self._ask(self._store.room)
        access = _READ_WRITE if self._is_writable else _READ_ONLY
        kinds = b"".join(number(Type.U16, one) for one in (_FIXED_RAM, _HIERARCHY, access))
        sizes = number(Type.U64, total) + number(Type.U64, free) + number(Type.U32, packing.UNKNOWN)
        return Reply(data=kinds + sizes + text(self._store.folder.name) + text(""))

    async def _count(self, values: tuple[int, ...], data: bytes) -> Reply:
        return Reply(parameters=(len(await self._listed(values)),))

    async def _handles(self, values: tuple[int, ...], data: bytes) -> Reply:
        return Reply(data=array(Type.U32, (entry.handle for entry in await self._listed(values))))

    async def _listed(self, values: tuple[int, ...]) -> list[Entry]:
        storage, format, parent = values[:3]
        if storage not in (ROOT, 0):
            _check_storage(storage)
        try:
            if parent == 0:
                found = await self._ask(self._store.everything)
            else:
                found = await self._ask(self._store.inside, 0 if parent == ROOT else parent)
        except NoObject:
            raise Refused(Response.INVALID_PARENT) from None
        return [entry for entry in found if format in (0, entry.format)]

    # -- objects ------------------------------------------------------------------------------------------------------

    async def _info(self, values: tuple[int, ...], data: bytes) -> Reply:
        entry: Entry = await self._ask(self._store.entry, values[0])
        protection = 0 if self._is_writable else 1
        known = (STORAGE_ID, entry.format, protection, entry.size, entry.parent, entry.is_folder, entry.name)
        return Reply(data=packing.info(*known, entry.modified))

    async def _object(self, values: tuple[int, ...], data: bytes) -> Reply:
        entry = await self._file(values[0])
        return Reply(data=Piece(entry.handle, 0, entry.size))

    async def _part_of_object(self, values: tuple[int, ...], data: bytes) -> Reply:
        handle, offset, size = values[:3]
        entry = await self._file(handle)
        if offset > entry.size:
            raise Refused(Response.INVALID_PARAMETER)
        size = min(size, entry.size - offset)
        return Reply(parameters=(size,), data=Piece(handle, offset, size))

    async def _file(self, handle: int) -> Entry:
        entry: Entry = await self._ask(self._store.entry, handle)
        if entry.is_folder:
            raise Refused(Response.INVALID_HANDLE)
        return entry

    async def _delete(self, values: tuple[int, ...], data: bytes) -> Reply:
        if values[0] == ROOT:
            raise Refused(Response.ACCESS_DENIED)  # everything at once
        if values[1]:
            raise Refused(Response.BY_FORMAT_UNSUPPORTED)
        await self._ask(self._store.delete, values[0])
        return Reply()

    async def _references(self, values: tuple[int, ...], data: bytes) -> Reply:
        """There are no playlists."""
        await self._ask(self._store.entry, values[0])
        return Reply(data=array(Type.U32, ()))

    # -- objects that come --------------------------------------------------------------------------------------------

    async def _announced(self, values: tuple[int, ...], data: bytes) -> Reply:
        storage, parent = values[:2]
        if storage:
            _check_storage(storage)
        sent = packing.sent(data, Format.FOLDER)
        if not is_name(sent.name):
            raise Refused(Response.INVALID_DATASET)
        place = 0 if parent == ROOT else parent
        try:
            if sent.is_folder:
                handle = await self._ask(self._store.make_folder, place, sent.name)
                return Reply(parameters=(STORAGE_ID, parent, handle))
            if sent.size != packing.UNKNOWN and sent.size > (await self._ask(self._store.room))[1]:
                raise Refused(Response.STORE_FULL)
            handle, part = await self._ask(self._store.begin, place, sent.name)
        except NoObject:
            raise Refused(Response.INVALID_PARENT) from None
        self.coming = Coming(handle, part, sent.size)
        return Reply(parameters=(STORAGE_ID, parent, handle))

    async def take(self, data: bytes) -> None:
        """More of an object. What nobody announced is taken too, and thrown away; so is what there is no room for."""
        coming = self.coming
        if coming is None or coming.failed is not None or not self._is_writable:
            return
        try:
            await self._ask(self._store.append, coming.part, data)
        except OSError as error:
            coming.failed = error
            log.warning("%s: %s", self._store.folder, error)
        coming.got += len(data)

    async def _came(self, values: tuple[int, ...], data: bytes) -> Reply:
        coming = self.coming
        if coming is None:
            raise Refused(Response.NO_VALID_OBJECT_INFO)
        if coming.failed is None and coming.size in (coming.got, packing.UNKNOWN):
            await self._ask(self._store.finish, coming.handle, coming.part)
            self.coming = None
            return Reply()
        failed = coming.failed
        await self.drop()
        raise Refused(Response.STORE_FULL if failed is not None else Response.INCOMPLETE)

    def abandon(self) -> None:
        """What was announced does not come any more."""
        coming, self.coming = self.coming, None
        if coming is not None:
            self._abandoned.append(coming.part)

    async def drop(self) -> None:
        """The same, and what came of it goes."""
        self.abandon()
        while self._abandoned:
            await self._ask(self._store.give_up, self._abandoned.pop())

    # -- properties of objects ----------------------------------------------------------------------------------------

    async def _properties(self, values: tuple[int, ...], data: bytes) -> Reply:
        return Reply(data=array(Type.U16, Property))

    async def _property_described(self, values: tuple[int, ...], data: bytes) -> Reply:
        code = _property(values[0])
        return Reply(data=properties.described(code, self._is_writable and code is Property.FILE_NAME))

    async def _property_value(self, values: tuple[int, ...], data: bytes) -> Reply:
        code = _property(values[1])
        return Reply(data=properties.value(await self._ask(self._store.entry, values[0]), code, self._is_writable))

    async def _property_list(self, values: tuple[int, ...], data: bytes) -> Reply:
        """Properties of many objects at once, which spares a host thousands of questions: appendix E.2.1."""
        handle, format, property, group, depth = values[:5]
        if not property:
            raise Refused(Response.BY_GROUP_UNSUPPORTED if group else Response.INVALID_PARAMETER)
        codes = tuple(Property) if property == ROOT else (_property(property),)
        entries = [one for one in await self._meant(handle, depth) if format in (0, one.format)]
        return Reply(data=await self._ask(properties.listed, entries, codes, self._is_writable))  # perhaps of thousands

    async def _meant(self, handle: int, depth: int) -> list[Entry]:
        """One object, or all; or those that are in no folder."""
        found: list[Entry]
        if handle not in (0, ROOT):
            if depth:
                raise Refused(Response.BY_DEPTH_UNSUPPORTED)
            return [await self._ask(self._store.entry, handle)]
        if depth == 1:
            found = await self._ask(self._store.inside, 0)
        elif depth in (0, ROOT):
            found = await self._ask(self._store.everything)
        else:
            raise Refused(Response.BY_DEPTH_UNSUPPORTED)
        return found

    async def _property_set(self, values: tuple[int, ...], data: bytes) -> Reply:
        code = _property(values[1])
        if code is not Property.FILE_NAME:
            raise Refused(Response.ACCESS_DENIED)
        name = packing.read_text(data)
        if not is_name(name):
            raise Refused(Response.INVALID_PROP_VALUE)
        await self._ask(self._store.rename, values[0], name)
        return Reply()


def _check_storage(storage: int) -> None:
    if storage != STORAGE_ID:
        raise Refused(Response.INVALID_STORAGE)


def _property(code: int) -> Property:
    if code not in tuple(Property):
        raise Refused(Response.INVALID_PROP_CODE)
    return Property(code)


_DONE: Final[Mapping[int, Callable[[Responder, tuple[int, ...], bytes], Any]]] = {
    Operation.GET_DEVICE_INFO: Responder._device_info,
    Operation.OPEN_SESSION: Responder._open,
    Operation.CLOSE_SESSION: Responder._close,
    Operation.GET_STORAGE_IDS: Responder._storages,
    Operation.GET_STORAGE_INFO: Responder._storage_info,
    Operation.GET_NUM_OBJECTS: Responder._count,
    Operation.GET_OBJECT_HANDLES: Responder._handles,
    Operation.GET_OBJECT_INFO: Responder._info,
    Operation.GET_OBJECT: Responder._object,
    Operation.DELETE_OBJECT: Responder._delete,
    Operation.SEND_OBJECT_INFO: Responder._announced,
    Operation.SEND_OBJECT: Responder._came,
    Operation.GET_DEVICE_PROP_DESC: Responder._device_property_described,
    Operation.GET_DEVICE_PROP_VALUE: Responder._device_property,
    Operation.GET_PARTIAL_OBJECT: Responder._part_of_object,
    Operation.GET_OBJECT_PROPS_SUPPORTED: Responder._properties,
    Operation.GET_OBJECT_PROP_DESC: Responder._property_described,
    Operation.GET_OBJECT_PROP_VALUE: Responder._property_value,
    Operation.SET_OBJECT_PROP_VALUE: Responder._property_set,
    Operation.GET_OBJECT_PROP_LIST: Responder._property_list,
    Operation.GET_OBJECT_REFERENCES: Responder._references,
}
