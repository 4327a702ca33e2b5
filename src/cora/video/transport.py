"""Whether a file of MPEG transport packets ends within one: such files have no table that says how long they are."""

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
