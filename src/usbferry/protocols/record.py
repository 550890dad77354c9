"""Fixed wire layouts declared once: a class whose annotations are the fields in wire order.

    @record(BIG)
    class OpHeader(Record):
        version: u16
        code: u16
        status: u32

gives `OpHeader(0x0111, 0x8005, 0).pack()`, `OpHeader.parse(buffer, offset)`, `OpHeader.SIZE`, and for hot loops
`OpHeader.STRUCT`, whose `unpack_from` yields the fields as a plain tuple. A field that is `= pad()` has no value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from struct import Struct
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar, dataclass_transform, get_type_hints

from ..usb.transfer import Buffer

BIG: Final = ">"
LITTLE: Final = "<"

u8 = Annotated[int, "B"]
u16 = Annotated[int, "H"]
u32 = Annotated[int, "I"]
u64 = Annotated[int, "Q"]
i32 = Annotated[int, "i"]


class Record:
    """A fixed layout. Subclasses are made by `record`."""

    __slots__ = ()
    STRUCT: ClassVar[Struct]
    SIZE: ClassVar[int]  # bytes
    FORMATS: ClassVar[dict[str, str]]  # field -> struct code, in wire order, padding included
    NAMES: ClassVar[tuple[str, ...]]  # fields with a value, in wire order

    @classmethod
    def parse(cls, buffer: Buffer, offset: int = 0) -> Self:
        """Decode from `offset`; later bytes are ignored. Raises struct.error when fewer than SIZE bytes are left."""
        return cls(*cls.STRUCT.unpack_from(buffer, offset))

    def pack(self) -> bytes:
        """The bytes on the wire. Raises struct.error when a value does not fit its field."""
        return self.STRUCT.pack(*[getattr(self, name) for name in self.NAMES])


R = TypeVar("R", bound=Record)


def pad(*, init: Literal[False] = False) -> Any:
    """A field of zeros that nobody reads; its annotation gives their number."""
    return field(init=init, default=None, repr=False, compare=False)


@dataclass_transform(field_specifiers=(pad,))
def record(endian: str, /) -> Callable[[type[R]], type[R]]:
    """Make a Record subclass with annotated fields a slotted class that knows its bytes, big- or little-endian."""

    def make(cls: type[R]) -> type[R]:
        hints = get_type_hints(cls, include_extras=True)
        formats = {name: hints[name].__metadata__[0] for name in cls.__annotations__}
        made = dataclass(slots=True)(cls)
        made.STRUCT = Struct(endian + "".join(formats.values()))
        made.SIZE = made.STRUCT.size
        made.FORMATS = formats
        made.NAMES = tuple(f.name for f in fields(made) if f.init)  # type: ignore[arg-type]
        return made

    return make
