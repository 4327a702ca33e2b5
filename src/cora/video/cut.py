"""Detects video files that were cut short, from the lengths that the files themselves declare.

Most formats consist of parts that begin with their length. Where such a file was cut, its last part is declared longer
than the file. A file of MPEG transport packets that was cut ends within a packet, and a GIF lacks its last byte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

#: Gives the length of a part from its first bytes, padded with zeros; None where these begin no part of the format, or
#: one that declares no length.
_PartLength = Callable[[bytes], int | None]

_HEAD_BYTES = 24  # enough for the length of any part


def is_cut(path: Path) -> bool:
    """Whether the end of a file is missing; False where its format or its writer does not say how long it is."""
    total = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith(b"GIF8"):
            return not _has_trailer(file, total)
        part_length = next((part_length for part_length in _PART_LENGTHS if part_length(head)), None)
        return _ends_within_packet(file, total) if part_length is None else _ends_within_part(file, total, part_length)


def _ends_within_part(file: BinaryIO, total: int, part_length: _PartLength) -> bool:
    position = 0
    while position < total:
        file.seek(position)
        length = part_length(file.read(_HEAD_BYTES).ljust(_HEAD_BYTES, b"\0"))
        if length is None:  # such as data that another program appended
            return False
        position += length
    return position > total


_MP4_BOXES = frozenset(
    (
        *(b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"meta", b"uuid", b"udta", b"pdin"),
        *(b"moof", b"mfra", b"sidx", b"ssix", b"styp", b"prft", b"emsg"),
    )
)


def _mp4_length(head: bytes) -> int | None:
    """A box of MP4 or MOV (ISO/IEC 14496-12, 4.2)."""
    size, kind = struct.unpack_from(">I4s", head)
    if kind not in _MP4_BOXES:
        return None
    return (struct.unpack_from(">Q", head, 8)[0] if size == 1 else size) or None


def _avi_length(head: bytes) -> int | None:
    """A RIFF list of AVI, of which large files have several; one of length 0 was not finished by its writer."""
    kind, size = struct.unpack_from("<4sI", head)
    return 8 + size + size % 2 if kind == b"RIFF" and size else None


def _matroska_length(head: bytes) -> int | None:
    """Header or segment of Matroska or WebM (RFC 8794 and 9559); a live recording sets all bits of the length."""
    if head[:4] not in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67") or not head[4]:
        return None
    width = 9 - head[4].bit_length()
    size = int.from_bytes(head[4 : 4 + width], "big") - (1 << 7 * width)
    return None if size == (1 << 7 * width) - 1 else 4 + width + size


def _flash_length(head: bytes) -> int | None:
    """Header of Flash video, or a tag of sound (8), images (9) or data (18); four bytes follow each of them."""
    if head.startswith(b"FLV"):
        return 4 + int.from_bytes(head[5:9], "big")
    return 15 + int.from_bytes(head[1:4], "big") if head[0] in (8, 9, 18) else None


#: Header and data.
_ASF_OBJECTS = (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"))


def _asf_length(head: bytes) -> int | None:
    """Header or data of Windows Media; a live recording gives its data a length of 0."""
    return struct.unpack_from("<Q", head, 16)[0] or None if head[:16] in _ASF_OBJECTS else None


_PART_LENGTHS: tuple[_PartLength, ...] = (_mp4_length, _avi_length, _matroska_length, _flash_length, _asf_length)


def _has_trailer(file: BinaryIO, total: int) -> bool:
    """Whether a GIF has its last byte, after the end of a block; another program may have appended data."""
    file.seek(max(0, total - 256))
    return b"\0;" in file.read()


#: First byte of every transport packet.
_SYNC = 0x47
#: (bytes of a packet, bytes before its sync byte): plain, with a time stamp (m2ts), with a check sum.
_PACKETS = ((188, 0), (192, 4), (204, 0))
_PROBED_PACKETS = 5


def _ends_within_packet(file: BinaryIO, total: int) -> bool:
    file.seek(0)
    head = file.read(_PROBED_PACKETS * max(size for size, _ in _PACKETS))
    for size, before in _PACKETS:
        if all(head[before + n * size : before + n * size + 1] == bytes([_SYNC]) for n in range(_PROBED_PACKETS)):
            file.seek(total // size * size + before)
            # Without a sync byte the rest is no packet but data that another program appended.
            return total % size > before and file.read(1) == bytes([_SYNC])
    return False
