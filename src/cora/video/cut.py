"""Whether a video file was cut short, by what the file says of its own length.

Most formats are made of parts that begin with their length: of a file that was cut the last part reaches over its end.
A file of MPEG transport packets then ends within one, and a GIF lacks its last byte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

#: First bytes of a part, filled up with zeros -> its length; None for no part of the format, or of unknown length.
_Length = Callable[[bytes], int | None]

_HEAD = 24  # bytes, enough for the length of any part


def is_cut(path: Path) -> bool:
    """Whether the end of a file is missing; False where its format or its writer does not say how long it is."""
    total = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if head.startswith(b"GIF8"):
            return not _has_trailer(file, total)
        length = next((length for length in _LENGTHS if length(head)), None)
        return _ends_within_packet(file, total) if length is None else _ends_within_part(file, total, length)


def _ends_within_part(file: BinaryIO, total: int, length: _Length) -> bool:
    place = 0
    while place < total:
        file.seek(place)
        part = length(file.read(_HEAD).ljust(_HEAD, b"\0"))
        if part is None:  # what another program added is no part, either
            return False
        place += part
    return place > total


_BOXES = frozenset(
    (
        *(b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"meta", b"uuid", b"udta", b"pdin"),
        *(b"moof", b"mfra", b"sidx", b"ssix", b"styp", b"prft", b"emsg"),
    )
)


def _box(head: bytes) -> int | None:
    """MP4 and MOV (ISO/IEC 14496-12, 4.2)."""
    size, kind = struct.unpack_from(">I4s", head)
    if kind not in _BOXES:
        return None
    return (struct.unpack_from(">Q", head, 8)[0] if size == 1 else size) or None


def _riff(head: bytes) -> int | None:
    """AVI: one list, or several in a large file; whoever was stopped while writing left a length of 0."""
    kind, size = struct.unpack_from("<4sI", head)
    return 8 + size + size % 2 if kind == b"RIFF" and size else None


def _ebml(head: bytes) -> int | None:
    """Matroska and WebM: header and segment (RFC 8794 and 9559); of a live one all bits of the length are set."""
    if head[:4] not in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67") or not head[4]:
        return None
    width = 9 - head[4].bit_length()
    size = int.from_bytes(head[4 : 4 + width], "big") - (1 << 7 * width)
    return None if size == (1 << 7 * width) - 1 else 4 + width + size


def _flv(head: bytes) -> int | None:
    """Flash video: its header, then tags of sound (8), images (9) and data (18), each with a number behind it."""
    if head.startswith(b"FLV"):
        return 4 + int.from_bytes(head[5:9], "big")
    return 15 + int.from_bytes(head[1:4], "big") if head[0] in (8, 9, 18) else None


#: Header and data.
_OBJECTS = (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"))


def _asf(head: bytes) -> int | None:
    """Windows Media: header and data; of a live one the data has a length of 0."""
    return struct.unpack_from("<Q", head, 16)[0] or None if head[:16] in _OBJECTS else None


_LENGTHS: tuple[_Length, ...] = (_box, _riff, _ebml, _flv, _asf)


def _has_trailer(file: BinaryIO, total: int) -> bool:
    """Whether a GIF has its last byte, behind the end of a block; other programs may have added something."""
    file.seek(max(0, total - 256))
    return b"\0;" in file.read()


#: First byte of every transport packet.
_SYNC = 0x47
#: (bytes of a packet, of which before the sync byte): plain, with a time stamp (m2ts), with a check sum.
_PACKETS = ((188, 0), (192, 4), (204, 0))
_LOOKED_AT = 5  # packets


def _ends_within_packet(file: BinaryIO, total: int) -> bool:
    file.seek(0)
    head = file.read(_LOOKED_AT * max(size for size, _ in _PACKETS))
    for size, before in _PACKETS:
        if all(head[before + n * size : before + n * size + 1] == bytes([_SYNC]) for n in range(_LOOKED_AT)):
            file.seek(total // size * size + before)
            # Without its sync byte the rest is no packet but something that another program added.
            return total % size > before and file.read(1) == bytes([_SYNC])
    return False
