"""Whether a video file was cut short, for formats without a table that says how long they are.

A file of MPEG transport packets then ends within one; a Matroska or WebM file is shorter than it says.
"""

from __future__ import annotations

from pathlib import Path

#: First byte of every packet.
_SYNC = 0x47
#: (bytes of a packet, of which before the sync byte): plain, with a time stamp (m2ts), with a check sum.
_PACKETS = ((188, 0), (192, 4), (204, 0))
_LOOKED_AT = 5  # packets


def ends_within_packet(path: Path) -> bool:
    """Whether the file was cut: its last packet is there in part."""
    total = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_LOOKED_AT * max(size for size, _ in _PACKETS))
        for size, before in _PACKETS:
            if all(head[before + n * size : before + n * size + 1] == bytes([_SYNC]) for n in range(_LOOKED_AT)):
                file.seek(total // size * size + before)
                # Without its sync byte the rest is no packet but something that another program added.
                return total % size > before and file.read(1) == bytes([_SYNC])
    return False


def shorter_than_said(path: Path) -> bool:
    """Whether a Matroska or WebM file ends before its segment does (RFC 8794 and 9559); a live one says no length."""
    with path.open("rb") as file:
        for wanted in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # header, segment
            if file.read(4) != wanted:
                return False
            first = file.read(1)
            extra = 8 - first[0].bit_length() if first and first[0] else 0
            rest = file.read(extra)
            if not first or len(rest) < extra:
                return False
            marker = 1 << (7 * (extra + 1))
            length = int.from_bytes(first + rest, "big") - marker
            if wanted == b"\x18\x53\x80\x67":
                return length != marker - 1 and path.stat().st_size < file.tell() + length
            file.seek(length, 1)
    return False
