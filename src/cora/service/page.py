"""The files of the web page, read once at the start, so that no client's path is ever looked up on the disk."""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}


class PageFile(NamedTuple):
    """A file of the page as it is sent."""

    content: bytes
    media_type: str


def read_page() -> dict[str, PageFile]:
    """All files of the page by URL path; the page itself is at "/"."""
    folder = resources.files("cora") / "assets" / "page"
    files = {}
    for file in folder.iterdir():
        media_type = _TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            files[path] = PageFile(file.read_bytes(), media_type)
    return files
