"""Lists the inputs of a batch (folders, lists and shards) in one file with a line for each image.

The list of all images is never in memory. Names pass through a temporary database on disk, which finds images that are
given twice and label files that would have the same name.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cora.batch.items import Item, flat, name_problem
from cora.data.listing import tell_passed_over, walk_images
from cora.data.problems import Problems
from cora.errors import DataError
from cora.images import IMAGE_SUFFIXES

SHARD_SUFFIX = ".tar"
_MAX_LIST_BYTES = 4 * 2**30


@dataclass(frozen=True)
class _Found:
    """An image, or a file that should have been one; the path is absolute."""

    path: str
    member: str = ""
    size: int | None = None
    start: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The list of a batch's images, in a file.

    Attributes:
        file: the list, with one `Item.to_line` for each image.
        root: folder that the names are relative to.
        count: number of images.
        digest: SHA-256 of the file. It covers names, sizes and positions in shards, but not the root, which may move.
    """

    file: Path
    root: Path
    count: int
    digest: str


def list_inputs(sources: Iterable[str], *, file: Path, exclude: Path) -> Listing:
    """List every image of the sources once, in the order of the sources; those of a folder are sorted by name.

    Args:
        sources: images, folders (searched at all levels; hidden files and linked folders are skipped), shards (`*.tar`,
            also inside folders) and `@FILE` with a path a line.
        file: the file to write.
        exclude: folder that is skipped, since the results go there.

    Raises:
        DataError: a source or list is missing or cannot be read, or there is no image at all.
    """
    with closing(sqlite3.connect("")) as table:  # a database without a name is a temporary file
        table.execute("CREATE TABLE found (path BLOB, member BLOB, size, start, problem, UNIQUE (path, member))")
        table.execute("CREATE TABLE stems (stem BLOB UNIQUE)")
        passed_over = Problems()
        root = _collect(sources, table, os.path.abspath(exclude), passed_over)
        tell_passed_over(root, passed_over)
        digest, count = hashlib.sha256(), 0
        with file.open("w", encoding="ascii") as output:
            for count, found in enumerate(_rows(table), start=1):
                line = _item(found, root, table, count).to_line()
                digest.update(line.encode())
                output.write(line)
    if not count:
        endings = "jpg, png, webp, ..."
        raise DataError(f"expected images ({endings}) or shards ({SHARD_SUFFIX}), got none; check the inputs")
    return Listing(file=file, root=Path(root), count=count, digest=digest.hexdigest())


def _collect(sources: Iterable[str], table: sqlite3.Connection, exclude: str, passed_over: Problems) -> str:
    """Fill the table; returns the folder that all images lie in."""
    root = ""
    for source in sources:
        for home, found in _of_source(source, exclude, passed_over):
            if not root or os.path.commonpath((root, home)) != root:
                root = home if not root else os.path.commonpath((root, home))
            row = (os.fsencode(found.path), os.fsencode(found.member), found.size, found.start, found.problem)
            table.execute("INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?, ?)", row)
    return root


def _of_source(source: str, exclude: str, passed_over: Problems) -> Iterator[tuple[str, _Found]]:
    """Yield (folder that names should be relative to, image) for the images of one source."""
    if source.startswith("@"):
        for line in _lines(Path(source[1:])):
            yield from _of_path(os.path.abspath(line), exclude, passed_over)
        return
    path = os.path.abspath(source)
    if not os.path.exists(path):
        raise DataError(f"expected a folder, an image, a shard or @LIST, got nothing at {source}; check the path")
    yield from _of_path(path, exclude, passed_over)


def _of_path(path: str, exclude: str, passed_over: Problems) -> Iterator[tuple[str, _Found]]:
    if os.path.isdir(path):
        yield from ((path, found) for found in _folder(path, exclude, passed_over))
    else:
        yield from ((os.path.dirname(path), found) for found in _file(path))


def _lines(path: Path) -> Iterator[str]:
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise DataError(f"expected a list of at most {_MAX_LIST_BYTES} bytes, got more: {path}; split it")
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            yield from (line for text in file if (line := text.rstrip("\r\n")).strip())
    except OSError as error:
        raise DataError(f"expected a list of paths, got {error.strerror or error}: {path}; check the path") from None


def _folder(path: str, exclude: str, passed_over: Problems) -> Iterator[_Found]:
    if path == exclude:
        return
    suffixes = {SHARD_SUFFIX, *IMAGE_SUFFIXES}
    for entry in walk_images(path, suffixes=suffixes, exclude=exclude, passed_over=passed_over):
        if entry.problem:
            yield _Found(entry.path, problem=entry.problem)
        else:
            yield from _file(entry.path)


def _file(path: str) -> Iterator[_Found]:
    try:
        size = os.stat(path).st_size
    except OSError as error:
        yield _Found(path, problem=f"expected a readable image, got {error.strerror or error}: {path}")
        return
    if path.lower().endswith(SHARD_SUFFIX):
        yield from _members(path)
    else:
        yield _Found(path, size=size)


def _members(path: str) -> Iterator[_Found]:
    """The images of a shard; where it is damaged, those before the damage, and an item whose problem is the damage."""
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it would keep up to a million members in memory
                name = member.name.removeprefix("./")
                if member.isdir() or PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                problem = name_problem(name)
                if not member.isreg() or member.issparse():
                    problem = f"expected a plain file in {os.path.basename(path)}, got a link or the like: {name}"
                elif name in seen:
                    problem = f"expected a name once in {os.path.basename(path)}, got it again: {name}"
                    name = f"{name}#{member.offset}"
                seen.add(name)
                yield _Found(path, name, member.size, member.offset_data, problem)
            _check_end(path, tar.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = f"expected an uncompressed tar file, got a damaged one or another ({error}); write it anew"
        yield _Found(path, problem=reason)


def _check_end(path: str, offset: int) -> None:
    """Refuse a tar file that was cut: its end is marked by zeros, but `tarfile` also takes other bytes for the end."""
    with open(path, "rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark behind its members")


def _rows(table: sqlite3.Connection) -> Iterator[_Found]:
    for path, member, size, start, problem in table.execute("SELECT * FROM found ORDER BY rowid"):
        yield _Found(os.fsdecode(path), os.fsdecode(member), size, start, problem)


def _item(found: _Found, root: str, table: sqlite3.Connection, number: int) -> Item:
    own = os.path.relpath(found.path, root).replace(os.sep, "/")
    name = f"{own}/{found.member}" if found.member else own
    stem = _stem(name, table)
    return Item(
        number=number,
        name=name,
        stem=stem,
        size=found.size,
        shard=own if found.member else "",
        start=found.start,
        problem=found.problem or name_problem(name),
    )


def _stem(name: str, table: sqlite3.Connection) -> str:
    """A unique stem: the name without its ending, else with its ending, else with a number, too."""
    plain = name[: len(name) - len(PurePosixPath(name).suffix)]
    candidate, count = plain, 0
    while True:
        try:
            table.execute("INSERT INTO stems VALUES (?)", (os.fsencode(flat(candidate)),))
            return candidate
        except sqlite3.IntegrityError:
            count += 1
            candidate = name if count == 1 else f"{name}-{count}"
