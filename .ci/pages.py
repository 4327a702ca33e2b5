"""The documentation site: its first page is the README, and files that pages link to outside of docs/ belong to it.

Pages keep the links that work where the code is hosted. Here each is changed to the place that its target has in the
site: `docs/` is the root of it, every other file lies below `files/`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
HOME = "README.md"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)")


def place_of(path: str) -> str:
    """Path in the site of a file of the repository."""
    if path == HOME:
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"


def path_of(place: str) -> str:
    """The file of the repository that has this path in the site."""
    if place == "index.md":
        return HOME
    return place.removeprefix("files/") if place.startswith("files/") else f"docs/{place}"


def targets(path: str, text: str) -> list[str]:
    """Files of the repository that a page links to."""
    return [posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for link in _LINK.findall(text)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README, and what it and all others link to, over and over."""
    waiting = [HOME, *(path_of(file.src_uri) for file in files.documentation_pages())]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if place_of(path) not in files.src_uris:
            files.append(File.generated(config, place_of(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            found = {one for one in targets(path, (ROOT / path).read_text(encoding="utf-8")) if (ROOT / one).is_file()}
            waiting += sorted(found - seen)
            seen |= found
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to the places in the site; one without a target stays, and mkdocs reports it."""
    path = path_of(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        (target,) = targets(path, f"]({link[1]})")
        if not (ROOT / target).is_file():
            return link[1]
        return posixpath.relpath(place_of(target), posixpath.dirname(page.file.src_uri) or ".")

    return _LINK.sub(moved, markdown)
