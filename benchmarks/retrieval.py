"""Searching 100,000 regions: how long it takes, and what the partitions of the vector index lose.

    python benchmarks/retrieval.py --photos coco_ovd_mini/val

1. Indexing: `RegionIndex.build` over the first `--pictures` images; images and regions per second.
2. Vectors: the regions of these images, those of every sixth image kept apart as queries. The others are multiplied to
   `--regions`: every new vector lies between a real one and one of its ten nearest of another image (up to half way),
   with Gaussian noise of length 0.3 added, made unit again. The cosine with the real one is printed.
3. Search: `RegionIndex.search` for the ten nearest, files of the regions included, by words (the names of LVIS as
   `search_text` embeds them) and by images (the regions kept apart): through the partitions, and exactly. Recall@10
   is the share of the ten true nearest (by a product with all vectors) that are found. `--shares` are the shares of the
   partitions that are looked at, the last one being the program's own.
4. With `--annotations` only this: the true boxes of the first images are ranked by every class name, as `search_text`
   embeds it and without its centring; mean over the classes of average precision, with 95 % intervals of a bootstrap
   over images.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import cora
from cora.data.class_split import known_split
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.evaluation.bootstrap import PERCENTILES, FloatArray, IntArray, resample_counts
from cora.regions.everyday import EVERYDAY_NAMES
from cora.retrieval import RegionIndex
from cora.retrieval import store as stored
from cora.retrieval.manifest import Manifest, RegionSettings
from cora.retrieval.regions import Regions
from cora.retrieval.store import PictureFile, RegionStore
from cora.retrieval.update import list_pictures

PER_PICTURE, TOP, NEIGHBOURS, NOISE = 50, 10, 10, 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of images")
    parser.add_argument("--pictures", type=int, default=120)
    parser.add_argument("--regions", type=int, default=100_000)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.25])
    parser.add_argument("--annotations", type=Path, help="COCO file of the images: measure queries by words instead")
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = cora.load(arguments.model).detector
    if arguments.annotations is not None:
        rank_by_words(
            detector, CocoDataset(annotations=arguments.annotations, images=arguments.photos), arguments.pictures
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        vectors, pictures = index_photos(detector, arguments.photos, arguments.pictures, Path(folder))
        apart = pictures % 6 == 0
        queries = {"words": words(detector, arguments.queries), "pictures": vectors[apart][: arguments.queries]}
        many = multiply(vectors[~apart], pictures[~apart], arguments.regions)
        index = store(many, Path(folder) / "many")
        for kind, embeddings in queries.items():
            for share in arguments.shares:
                stored._PROBED_SHARE = share
                report(index, f"{kind}, {share:.0%} of the partitions", embeddings, many, exact=False)
            report(index, f"{kind}, every region", embeddings, many, exact=True)


def index_photos(detector: Detector, photos: Path, count: int, place: Path) -> tuple[Tensor, Tensor]:
    """Embeddings [K, D] of the regions of the first images, and the number of the image [K] of each."""
    (place / "photos").mkdir()
    for file in list_pictures(photos)[:count]:
        shutil.copy(photos / file, place / "photos" / file.replace("/", "_"))
    start = time.perf_counter()
    index, done = RegionIndex.build(place / "few", place / "photos", detector)
    seconds = time.perf_counter() - start
    rates = f"{done.added / seconds:.1f} pictures/s, {len(index) / seconds:.0f} regions/s"
    print(f"indexing: {done.added} images, {len(index)} regions in {seconds:.1f} s: {rates}")
    rows = index._store._regions.to_arrow()
    numbers = {content: number for number, content in enumerate(rows["content"].unique().to_pylist())}
    vectors = torch.from_numpy(rows["vector"].combine_chunks().flatten().to_numpy().copy()).view(len(rows), -1)
    return vectors, torch.tensor([numbers[content] for content in rows["content"].to_pylist()])


def words(detector: Detector, count: int) -> Tensor:
    """Queries [Q, D] as `RegionIndex.search_text` makes them, of names spread over those of LVIS."""
    names = [name.replace("_", " ") for name in known_split("lvis").all]
    encode = detector.vocabulary_encoder.encode
    chosen = encode(names[:: max(1, len(names) // count)][:count]).embeddings
    return chosen - encode(EVERYDAY_NAMES).embeddings.mean(dim=0)


def multiply(vectors: Tensor, pictures: Tensor, count: int) -> Tensor:
    """[count, D] vectors around real ones; see the head of this file."""
    generator = torch.Generator().manual_seed(0)
    cosines = vectors @ vectors.T
    cosines[pictures[:, None] == pictures[None]] = -1
    neighbours = cosines.topk(NEIGHBOURS, dim=1).indices
    parents = torch.arange(count) % len(vectors)
    others = neighbours[parents, torch.randint(NEIGHBOURS, (count,), generator=generator)]
    share = torch.rand(count, 1, generator=generator) / 2
    noise = torch.randn(count, vectors.shape[1], generator=generator) * (NOISE / vectors.shape[1] ** 0.5)
    many = F.normalize(vectors[parents] * (1 - share) + vectors[others] * share + noise, dim=-1)
    cosine = (many * vectors[parents]).sum(dim=-1).mean()
    print(f"vectors: {len(vectors)} real ones multiplied to {count}; mean cosine with the real one {cosine:.2f}")
    return many


def store(vectors: Tensor, place: Path) -> RegionIndex:
    """An index of made-up images with 50 of the vectors each, through the same writing as a real one."""
    manifest = Manifest(model="", model_name="", width=vectors.shape[1], folder="/", settings=RegionSettings())
    made = RegionStore.create(place, manifest)
    start = time.perf_counter()
    parts = vectors.split(PER_PICTURE)
    for first in range(0, len(parts), 100):
        files, found = [], {}
        for number, part in enumerate(parts[first : first + 100], start=first):
            files.append(PictureFile(f"{number}.jpg", f"content {number}", 0, 0))
            boxes, scores = torch.zeros(len(part), 4), torch.ones(len(part))
            found[f"content {number}"] = Regions(boxes, scores, [None] * len(part), part)
        made.add(files, found)
    written = time.perf_counter()
    made.tidy()
    tidied = time.perf_counter()
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) / 1e6
    print(
        f"storing: {written - start:.1f} s, {made.manifest.partitions} partitions made in {tidied - written:.1f} s, "
        f"{size:.0f} MB on disk"
    )
    return RegionIndex(store=RegionStore.open(place))


def report(index: RegionIndex, what: str, queries: Tensor, vectors: Tensor, *, exact: bool) -> None:
    """Print seconds and recall of one kind of query."""
    nearest = (F.normalize(queries, dim=-1) @ vectors.T).topk(TOP, dim=1).values
    index.search(queries[0], TOP, exact=exact)  # the first one opens files
    seconds, found = [], 0
    for query, best in zip(queries, nearest, strict=True):
        start = time.perf_counter()
        hits = index.search(query, TOP, exact=exact)
        seconds.append(time.perf_counter() - start)
        # By similarity: equal ones may come in any order.
        found += sum(hit.similarity >= float(best[-1]) - 1e-5 for hit in hits)
    milliseconds = sorted(1000 * value for value in seconds)
    print(
        f"{what}: median {statistics.median(milliseconds):.1f} ms, "
        f"95 % within {milliseconds[int(0.95 * (len(milliseconds) - 1))]:.1f} ms, "
        f"recall@{TOP} {found / (TOP * len(queries)):.3f}",
        flush=True,
    )


@torch.no_grad()
def rank_by_words(detector: Detector, dataset: CocoDataset, count: int) -> None:
    """Print how well class names rank true boxes, centred as `search_text` does it and as they are."""
    parts, classes, photos = [], [], []
    for number in range(min(count, len(dataset))):
        photo, targets, _ = dataset[number]
        if len(targets):
            c3, _ = detector.encode(detector.preprocessor([photo]))
            parts.append(detector.embed_exact(c3, targets.boxes_cxcywh[None])[0])
            classes.append(targets.classes)
            photos.append(torch.full_like(targets.classes, number))
    vectors, truth, photo_of = torch.cat(parts), torch.cat(classes).numpy(), torch.cat(photos).numpy()
    encode = detector.vocabulary_encoder.encode
    names = encode(dataset.class_names).embeddings
    counts = resample_counts(len(dataset))
    print(f"{len(truth)} boxes, {len(set(truth.tolist()))} classes, mean average precision:")
    values, drawn = {}, {}
    for way, queries in {"as it is": names, "centred": names - encode(EVERYDAY_NAMES).embeddings.mean(dim=0)}.items():
        order = (vectors @ F.normalize(queries, dim=-1).T).argsort(dim=0, descending=True).numpy()
        values[way] = mean_precision(order, truth, np.ones(len(truth)))
        drawn[way] = np.array([mean_precision(order, truth, row[photo_of]) for row in counts])
        print(f"  {way}: {in_words(values[way], drawn[way])}")
    gain = in_words(values["centred"] - values["as it is"], drawn["centred"] - drawn["as it is"])
    print(f"  centred - as it is: {gain}")


def mean_precision(order: IntArray, truth: IntArray, weights: IntArray | FloatArray) -> float:
    """Mean over the classes of average precision; order: [boxes, classes], best first; weights: of the boxes."""
    found = []
    for label in np.unique(truth):
        rows = order[:, label]
        weight = weights[rows]
        right = weight * (truth[rows] == label)
        if right.sum():
            found.append((right * right.cumsum() / np.maximum(1, weight.cumsum())).sum() / right.sum())
    return float(np.mean(found))


def in_words(value: float, drawn: FloatArray) -> str:
    low, high = np.percentile(drawn, PERCENTILES)
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
