"""Letters for names in any script, as far as the machine has fonts for them.

Pillow brings one small font that knows plain English letters and nothing else. Names with other letters are written
in the first font that knows all of them: the file named by the environment variable CORA_FONT, DejaVu Sans (which
comes with matplotlib, and so with several extras; it knows Latin with accents, Greek, Cyrillic, Arabic and Hebrew), or
one of the machine's own fonts. Accents are dropped where no font has them; other letters without a font become boxes.
"""

import logging
import os
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from cora.errors import CoraError

_LOG = logging.getLogger(__name__)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

#: Environment variable that names a font file, asked before all others.
FONT_VARIABLE = "CORA_FONT"

SMALLEST = 8
"""Letters below this many pixels cannot be read."""

_BUILT_IN = ""
#: Looked up by file name in the machine's font folders: Linux, then Windows and macOS.
_OF_THE_MACHINE = (
    *("NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-zenhei.ttc"),
    *("NotoSansDevanagari-Regular.ttf", "NotoSansBengali-Regular.ttf", "NotoSansTamil-Regular.ttf"),
    *("NotoSansThai-Regular.ttf", "Arial Unicode.ttf", "PingFang.ttc", "msyh.ttc", "malgun.ttf", "Nirmala.ttf"),
)
_PROBE_SIZE = 16
_NO_CHARACTER = "\U0010ffff"


def font_for(text: str, size: int) -> tuple[str, Font]:
    """The text as it can be written, and a font of this size in pixels for it.

    Raises:
        CoraError: CORA_FONT names no font file.
    """
    text = " ".join(text.split())
    # Most names are plain; their letters are known to be there.
    special = "".join(sorted({letter for letter in text if not letter.isascii()}))
    face, accents = _choose(special, os.environ.get(FONT_VARIABLE, ""))
    return (text if accents else _without_accents(text)), _open(face, size)


def shorten(text: str, font: Font, room: float, *, tail: float = 0.0) -> str:
    """The text if it is at most `room` pixels long, else with … in place of letters; `tail`: share kept of its end."""
    if font.getlength(text) <= room:
        return text
    for kept in range(min(len(text) - 1, max(0, int(room))), 0, -1):
        end = int(kept * tail)
        cut = text[: kept - end].rstrip() + "…" + (text[-end:].lstrip() if end else "")
        if font.getlength(cut) <= room:
            return cut
    return text[:1]


@lru_cache(maxsize=4096)
def _choose(special: str, wanted: str) -> tuple[str, bool]:
    """The first font with these letters, and whether accents must not be dropped for it."""
    faces = _faces(wanted)
    if not special:
        return next(faces), True  # without searching the font folders
    known = list(faces)
    for face in known:
        if _covers(face, special):
            return face, True
    if _covers(_BUILT_IN, _without_accents(special)):
        return _BUILT_IN, False
    _LOG.warning("no font here has all of the letters %r; name a font file in %s to see them", special, FONT_VARIABLE)
    return max(known, key=lambda face: sum(not _missing(face, letter) for letter in special)), True


def _without_accents(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def _faces(wanted: str) -> Iterator[str]:
    if wanted:
        _check(wanted)
        yield wanted
    yield _BUILT_IN
    spec = find_spec("matplotlib")
    places = [] if spec is None else spec.submodule_search_locations or []
    shipped = [str(Path(place) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf") for place in places]
    yield from (face for face in (*shipped, "DejaVuSans.ttf", *_OF_THE_MACHINE) if _exists(face))


def _check(path: str) -> None:
    try:
        ImageFont.truetype(path, _PROBE_SIZE)
    except OSError:
        raise CoraError(
            f"{FONT_VARIABLE}: expected the path of a font file (TTF, OTF, TTC), got {path!r}; correct or unset it"
        ) from None


@cache
def _exists(face: str) -> bool:
    try:
        _open(face, _PROBE_SIZE)
    except OSError:
        return False
    return True


@lru_cache(maxsize=64)
def _open(face: str, size: int) -> Font:
    return ImageFont.load_default(size) if face == _BUILT_IN else ImageFont.truetype(face, size)


def _covers(face: str, text: str) -> bool:
    return not any(_missing(face, letter) for letter in set(text))


@lru_cache(maxsize=4096)
def _missing(face: str, letter: str) -> bool:
    """Whether the font draws this letter as it draws what is no character at all; Pillow has no other way to ask."""
    if unicodedata.category(letter)[0] in "CZM":
        return False  # spaces, marks and control characters have no image of their own
    font = _open(face, _PROBE_SIZE)
    drawn, nothing = font.getmask(letter), font.getmask(_NO_CHARACTER)
    return drawn.size == nothing.size and bytes(drawn) == bytes(nothing)
