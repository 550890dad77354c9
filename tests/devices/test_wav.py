"""WAV files: Python's own `wave` writes what we read, and reads what we write."""

import wave
from io import BytesIO

import pytest

from usbferry.devices.sound.pcm import Format
from usbferry.devices.sound.wav import WavFile, head, rewrite

FORMATS = [Format(), Format(44100, 1, 16), Format(96000, 6, 24), Format(192000, 2, 32)]


@pytest.mark.parametrize("sound", FORMATS, ids=str)
def test_python_reads_what_we_write(tmp_path, sound):
    path = tmp_path / "ours.wav"
    samples = bytes(range(sound.frame_bytes)) * 10
    path.write_bytes(head(sound, len(samples)) + samples)
    with wave.open(str(path)) as read:
        assert (read.getframerate(), read.getnchannels(), read.getsampwidth() * 8) == (
            sound.rate,
            sound.channels,
            sound.bits,
        )
        assert read.readframes(100) == samples


@pytest.mark.parametrize("sound", FORMATS, ids=str)
def test_we_read_what_python_writes(tmp_path, sound):
    path = tmp_path / "theirs.wav"
    samples = bytes(range(sound.frame_bytes)) * 10
    with wave.open(str(path), "wb") as written:
        written.setparams((sound.channels, sound.sample_bytes, sound.rate, 0, "NONE", ""))
        written.writeframes(samples)
    found = WavFile.read(path)
    assert (found.format, found.length) == (sound, len(samples))
    assert path.read_bytes()[found.offset : found.offset + found.length] == samples


def chunk(name: bytes, body: bytes) -> bytes:
    return name + len(body).to_bytes(4, "little") + body + bytes(len(body) % 2)


def file(*chunks: bytes) -> bytes:
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks))


PLAIN = head(Format(), 0)[20:36]  # the body of its format chunk
EXTENSIBLE = b"\xfe\xff" + PLAIN[2:] + bytes.fromhex("1600 1000 03000000 0100") + bytes(14)


def test_other_chunks_are_passed_over_and_an_extensible_format_is_read(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(file(chunk(b"LIST", b"odd"), chunk(b"fmt ", EXTENSIBLE), chunk(b"data", b"abcdefgh")))
    found = WavFile.read(path)
    assert (found.format, path.read_bytes()[found.offset :][: found.length]) == (Format(), b"abcdefgh")


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 1 << 30])
def test_a_length_that_was_never_filled_in_goes_to_the_end(tmp_path, length):
    """What a program leaves that writes to a pipe, or was stopped."""
    path = tmp_path / "x.wav"
    path.write_bytes(head(Format(), 0)[:40] + length.to_bytes(4, "little") + bytes(400))
    assert WavFile.read(path).length == 400


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no WAV file"),
        (b"ID3" + bytes(100), "no WAV file"),
        (file(chunk(b"fmt ", PLAIN)), "ends before its samples"),
        (file(chunk(b"data", b"abcd")), "ends before its samples"),
        (file(chunk(b"fmt ", b"\1\0")), "no whole format"),
        (file(chunk(b"fmt ", b"\3\0" + PLAIN[2:]), chunk(b"data", b"")), "not plain PCM"),
        (file(chunk(b"fmt ", PLAIN[:12] + b"\2\0\x08\0"), chunk(b"data", b"")), "16, 24 or 32 bits"),
    ],
)
def test_what_we_cannot_play_is_refused_with_a_remedy(tmp_path, content, why):
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        WavFile.read(path)


def test_the_head_is_put_right_afterwards():
    written = BytesIO()
    written.write(head(Format(), 0) + bytes(8))
    rewrite(written, Format(), 8)
    written.write(b"more")
    assert written.getvalue() == head(Format(), 8) + bytes(8) + b"more"


def test_over_4_gib_the_head_says_the_most_it_can():
    assert head(Format(), 5 << 30)[40:] == (0xFFFFFFFF - 44).to_bytes(4, "little")
