"""The tables of an index in LanceDB: `regions`, by the content of their image, and `pictures`, the files by content.

Since regions belong to contents and not to files, an image that was copied or moved is embedded once. Every write is a
commit of one table, and `pictures` is written last: an image is indexed when its file is there. A run that is stopped
in between leaves regions that no file points to; searches skip them, and the next run deletes them.
"""

from __future__ import annotations

import datetime
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cora.errors import needs_extra
from cora.retrieval.manifest import LOCK, MANIFEST, Manifest, RetrievalError, damaged
from cora.retrieval.regions import Regions

REGIONS, PICTURES = "regions", "pictures"

#: Number of regions from which on a search by partitions is faster than comparing every region
#: (benchmarks/retrieval.py).
PARTITION_FROM = 20_000
_PROBED_SHARE = 0.25
_GROWN = 4  # partitions are made anew when the index has grown by this factor
_CHUNK = 500  # values in one condition of a query
# Much longer than any search: no reader still uses an older state when its files are removed.
_KEEP_OLD = datetime.timedelta(minutes=1)


@dataclass(frozen=True)
class PictureFile:
    """A file in the index.

    Attributes:
        file: path below the indexed folder, with forward slashes.
        content: hash of its bytes.
        size: size in bytes.
        mtime_ns: time of its last change, in nanoseconds.
    """

    file: str
    content: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class StoredRegion:
    """A stored region, with the cosine between its embedding and the query's."""

    content: str
    box_xyxy_px: tuple[float, float, float, float]
    score: float
    label: str | None
    similarity: float


class RegionStore:
    """The tables of one index; made by `create` or `open`."""

    def __init__(self, *, place: Path, manifest: Manifest, regions: Any, pictures: Any) -> None:
        self.place = place
        self.manifest = manifest
        self._regions = regions
        self._pictures = pictures

    @classmethod
    def create(cls, place: Path, manifest: Manifest) -> RegionStore:
        """Create an empty index; what an interrupted `create` left is replaced.

        Raises:
            RetrievalError: the folder holds something else.
            MissingExtraError: LanceDB is not installed.
        """
        lancedb = _lancedb()
        check_free(place)
        for name in (REGIONS, PICTURES):
            shutil.rmtree(place / f"{name}.lance", ignore_errors=True)
        with _guarded(place):
            database = lancedb.connect(place, read_consistency_interval=datetime.timedelta(0))
            regions = database.create_table(REGIONS, schema=_regions_schema(manifest.width))
            pictures = database.create_table(PICTURES, schema=_pictures_schema())
            manifest.write(place)  # last: a folder without it is no index
        return cls(place=place, manifest=manifest, regions=regions, pictures=pictures)

    @classmethod
    def open(cls, place: Path) -> RegionStore:
        """Open an index.

        Raises:
            RetrievalError: there is no index, or it is damaged.
            MissingExtraError: LanceDB is not installed.
        """
        manifest = Manifest.read(place)
        lancedb = _lancedb()
        with _guarded(place):
            # Every read looks for the newest state, so a long-running reader sees what another process adds.
            database = lancedb.connect(place, read_consistency_interval=datetime.timedelta(0))
            regions, pictures = database.open_table(REGIONS), database.open_table(PICTURES)
            if regions.schema != _regions_schema(manifest.width) or pictures.schema != _pictures_schema():
                raise damaged(place, "tables of another form")
        return cls(place=place, manifest=manifest, regions=regions, pictures=pictures)

    def move_to(self, folder: Path) -> None:
        """Note the new place of the indexed folder."""
        self.manifest = replace(self.manifest, folder=str(folder))
        self.manifest.write(self.place)

    def count(self) -> int:
        """Number of stored regions."""
        with _guarded(self.place):
            return int(self._regions.count_rows())

    def pictures(self) -> dict[str, PictureFile]:
        """All files of the index by name."""
        with _guarded(self.place):
            return {row["file"]: PictureFile(**row) for row in self._pictures.to_arrow().to_pylist()}

    def files_of(self, contents: Iterable[str]) -> dict[str, list[str]]:
        """The files of each content, in order of their names; contents without a file are left out."""
        found: dict[str, list[str]] = {}
        with _guarded(self.place):
            for condition in _conditions("content", set(contents)):
                for row in self._pictures.search().where(condition).select(["file", "content"]).to_list():
                    found.setdefault(row["content"], []).append(row["file"])
        return {content: sorted(files) for content, files in found.items()}

    def add(self, files: Sequence[PictureFile], found: Mapping[str, Regions]) -> None:
        """Store files and regions.

        Args:
            files: new or changed files.
            found: content -> its regions, for contents that the index does not have yet.
        """
        import pyarrow as pa

        rows = [_rows(content, regions, self.manifest) for content, regions in found.items() if len(regions)]
        with _guarded(self.place):
            if rows:
                self._regions.add(pa.concat_tables(rows))
            if files:
                table = pa.Table.from_pylist([vars(one) for one in files], schema=_pictures_schema())
                merge = self._pictures.merge_insert("file").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(table)

    def remove(self, files: Iterable[str]) -> None:
        """Remove files; `drop_orphans` then deletes the regions of contents that have no file left."""
        with _guarded(self.place):
            for condition in _conditions("file", files):
                self._pictures.delete(condition)

    def drop_orphans(self) -> int:
        """Delete regions that no file points to; returns the number of their contents."""
        with _guarded(self.place):
            wanted = set(self._pictures.to_arrow()["content"].to_pylist())
            stored: set[str] = set()
            for batch in self._regions.search().select(["content"]).to_batches():
                stored.update(batch["content"].unique().to_pylist())
            orphans = stored - wanted
            for condition in _conditions("content", orphans):
                self._regions.delete(condition)
        return len(orphans)

    def tidy(self) -> None:
        """Join the small files of many writes, delete old states, and partition a large index."""
        from lancedb.index import IvfFlat

        with _guarded(self.place):
            # Before partitions are made, since joining files moves regions, and partitions would have to follow.
            for table in (self._regions, self._pictures):
                table.optimize(cleanup_older_than=_KEEP_OLD)
            count = int(self._regions.count_rows())
            wanted = round(math.sqrt(count)) if count >= PARTITION_FROM else 0
            if wanted > self.manifest.partitions * math.sqrt(_GROWN):
                # LanceDB's defaults, 256 vectors a partition and 50 rounds, take minutes and find no more.
                config = IvfFlat(distance_type="cosine", num_partitions=wanted, sample_rate=64, max_iterations=15)
                self._regions.create_index("vector", config=config)
                self.manifest = replace(self.manifest, partitions=wanted)
                self.manifest.write(self.place)

    def nearest(self, embedding: NDArray[np.float32], limit: int, *, exact: bool = False) -> list[StoredRegion]:
        """The regions with the highest cosine to an embedding, best first.

        Args:
            embedding: [D], of any length above 0.
            limit: number of regions, at most.
            exact: compare with every region, even if there are partitions.
        """
        columns = ["content", "box_xyxy_px", "score", "label", "_distance"]
        query = self._regions.search(embedding).distance_type("cosine").limit(limit).select(columns)
        query = query.bypass_vector_index() if exact else query.nprobes(self._probes())
        with _guarded(self.place):
            rows = query.to_list()
        return [
            StoredRegion(
                row["content"], tuple(row["box_xyxy_px"]), row["score"], row["label"], similarity=1 - row["_distance"]
            )
            for row in rows
        ]

    def _probes(self) -> int:
        return max(1, math.ceil(_PROBED_SHARE * self.manifest.partitions))


def check_free(place: Path) -> None:
    """Check that a place is free, or holds only what an interrupted `RegionStore.create` leaves.

    Raises:
        RetrievalError: something else is there.
    """
    if not place.exists():
        return
    ours = {MANIFEST, LOCK, f"{REGIONS}.lance", f"{PICTURES}.lance"}
    found = "a file"
    if place.is_dir():
        # A name that begins with a dot is that of a manifest that was being written.
        others = sorted(entry.name for entry in place.iterdir() if entry.name not in ours and entry.name[0] != ".")
        if not others:
            return
        found = f"a folder with {others[0]}"
    raise RetrievalError(f"expected a free place for an index, got {found}: {place}; choose another --db")


@contextmanager
def _guarded(place: Path) -> Iterator[None]:
    """Turn LanceDB's errors on files that it cannot read or write into a `RetrievalError`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise damaged(place, error) from None


def _lancedb() -> Any:
    with needs_extra("searching images", extra="search"):
        import lancedb
    return lancedb


def _regions_schema(width: int) -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("content", pa.string()),
            pa.field("box_xyxy_px", pa.list_(pa.float32(), 4)),
            pa.field("score", pa.float32()),
            pa.field("label", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), width)),
        ]
    )


def _pictures_schema() -> Any:
    import pyarrow as pa

    types = {"file": pa.string(), "content": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64()}
    return pa.schema([pa.field(name, kind) for name, kind in types.items()])


def _rows(content: str, regions: Regions, manifest: Manifest) -> Any:
    import pyarrow as pa

    def lists(values: NDArray[np.float32]) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])

    count = len(regions)
    columns = [
        pa.array([content] * count),
        lists(regions.boxes_xyxy_px.numpy()),
        pa.array(regions.scores.numpy()),
        pa.array(regions.labels, pa.string()),
        lists(regions.embeddings.numpy()),
    ]
    return pa.Table.from_arrays(columns, schema=_regions_schema(manifest.width))


def _conditions(column: str, values: Iterable[str]) -> Iterator[str]:
    """SQL conditions `column IN (...)` for all values, `_CHUNK` at a time."""
    quoted = ["'" + value.replace("'", "''") + "'" for value in values]
    for start in range(0, len(quoted), _CHUNK):
        yield f"{column} IN ({', '.join(quoted[start : start + _CHUNK])})"
