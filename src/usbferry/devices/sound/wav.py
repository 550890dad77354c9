"""WAV files: what is in one, and the head of a new one. Layout: Multimedia Programming Interface 1.0, RIFF WAVE.

Only samples as USB has them, PCM of 16 to 32 bits. Python's own `wave` reads no extensible headers before 3.12, and
does not tell where the samples begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

from .pcm import Format

_CHUNK: Final = Struct("<4sI")
_FORMAT: Final = Struct("<HHIIHH")  # wFormatTag, nChannels, nSamplesPerSec, nAvgBytesPerSec, nBlockAlign, bits
_HEAD: Final = Struct("<4sI4s4sIHHIIHH4sI")
_PCM: Final = 1
_EXTENSIBLE: Final = 0xFFFE  # the format is the first two bytes of its GUID, at 24
_MOST: Final = 0xFFFFFFFF - _HEAD.size


@dataclass(frozen=True, slots=True)
class WavFile:
    """Where the samples of a file are, `offset` and `length` in bytes, and what they are."""

    path: Path
    format: Format
    offset: int
    length: int

    @classmethod
    def read(cls, path: Path) -> WavFile:
        """Raises ValueError with a text for the user, or OSError."""
        with path.open("rb") as file:
            riff, _ = _CHUNK.unpack(file.read(8).ljust(8, b"\0"))
            if riff != b"RIFF" or file.read(4) != b"WAVE":
                raise ValueError(
                    f"{path} is no WAV file; others become one with: ffmpeg -i FILE -c:a pcm_s16le OUT.wav"
                )
            size = path.stat().st_size
            sound: Format | None = None
            while len(head := file.read(8)) == 8:
                name, length = _CHUNK.unpack(head)
                at = file.tell()
                if name == b"fmt ":
                    sound = _format(path, file.read(min(length, 40)))
                elif name == b"data" and sound is not None:
                    # A program that could not seek left 0 or the most there is: then it goes to the end.
                    return cls(path, sound, at, min(length if 0 < length < _MOST else size, size - at))
                file.seek(at + length + length % 2)
        raise ValueError(f"{path} ends before its samples")


def _format(path: Path, raw: bytes) -> Format:
    if len(raw) < _FORMAT.size:
        raise ValueError(f"{path} has no whole format chunk")
    tag, channels, rate, _, align, bits = _FORMAT.unpack_from(raw)
    if tag == _EXTENSIBLE and len(raw) >= 26:
        tag = int.from_bytes(raw[24:26], "little")
    if tag != _PCM or align != channels * bits // 8:
        raise ValueError(f"{path} is not plain PCM; convert it with: ffmpeg -i FILE -c:a pcm_s16le OUT.wav")
    try:
        return Format(rate, channels, bits)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; convert it with: ffmpeg -i FILE -c:a pcm_s16le OUT.wav") from None


def head(sound: Format, length: int) -> bytes:
    """The first 44 bytes of a file with `length` bytes of samples, as far as 32 bits can tell."""
    length = min(length, _MOST)
    each = sound.frame_bytes
    return _HEAD.pack(
        b"RIFF", 36 + length, b"WAVE", b"fmt ", 16, _PCM, sound.channels, sound.rate, sound.rate * each, each,
        sound.bits, b"data", length,
    )  # fmt: skip


def rewrite(file: BinaryIO, sound: Format, length: int) -> None:
    """Put the head in front of what was written, and go on at the end."""
    file.seek(0)
    file.write(head(sound, length))
    file.seek(0, 2)
    file.flush()
