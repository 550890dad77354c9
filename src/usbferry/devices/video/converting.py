"""Pictures of any kind and size, by Pillow where it is installed: the extra `pictures`."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ...extras import install
from .uvc import Coding

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]


def is_there() -> bool:
    """Whether pictures can be converted."""
    return find_spec("PIL") is not None


def remedy() -> str:
    """What a user types to have it."""
    return f"other pictures need Pillow: {install('Pillow')}"


def size_of(path: Path, raw: bytes) -> Size:
    """Width and height. Raises ValueError with a text for the user."""
    return _opened(raw, str(path)).size


def converted(raw: bytes, size: Size, coding: Coding) -> bytes:
    """The picture, as large as it fits into `size`, with black around it."""
    from PIL import Image, ImageOps

    fitted = ImageOps.pad(_opened(raw, "picture").convert("RGB"), size, Image.Resampling.BICUBIC)
    if coding is Coding.MJPEG:
        written = BytesIO()
        fitted.save(written, "JPEG", quality=85, subsampling="4:2:0", comment=b"")
        return written.getvalue()
    return _yuy2(fitted)


def _yuy2(picture: Image) -> bytes:
    """Y, Cb, Y, Cr of two pixels; colours are those of the left one."""
    y, cb, cr = (channel.tobytes() for channel in picture.convert("YCbCr").split())
    packed = bytearray(2 * len(y))
    packed[0::2] = y
    packed[1::4] = cb[0::2]
    packed[3::4] = cr[0::2]
    return bytes(packed)


def _opened(raw: bytes, name: str) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(BytesIO(raw))
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no picture that Pillow knows") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error}") from None
