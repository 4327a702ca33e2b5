"""The region index: build it, update it, search it by words or by an image."""

from __future__ import annotations

import re
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cora.detector import Detector
from cora.errors import VocabularyError
from cora.images import ImageSource
from cora.predictor import Predictor, network_of
from cora.predictor.exemplars import Box, embed_region
from cora.regions.class_names import class_prompts
from cora.regions.everyday import EVERYDAY_NAMES
from cora.retrieval.identity import model_identity
from cora.retrieval.manifest import MANIFEST, Manifest, RegionSettings, RetrievalError
from cora.retrieval.regions import RegionFinder
from cora.retrieval.store import RegionStore, StoredRegion, check_free
from cora.retrieval.update import Progress, UpdateReport, list_pictures, no_pictures, only_writer, update

_ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)  # the templates have their own


@dataclass(frozen=True)
class Hit:
    """A region that a search found.

    Attributes:
        file: path below the indexed folder, with forward slashes.
        box_xyxy_px: corners in pixels of the upright image.
        similarity: cosine between its embedding and the query's, -1..1.
        score: score of the detection, 0..1.
        label: class name of the detection; None in an index without classes.
        copies: other files with the same content.
    """

    file: str
    box_xyxy_px: tuple[float, float, float, float]
    similarity: float
    score: float
    label: str | None
    copies: tuple[str, ...] = ()


class RegionIndex:
    """The regions of a folder of images.

    Examples:
        >>> detector = cora.load("nano")
        >>> index, report = RegionIndex.build("regions.db", "images", detector)
        >>> for hit in index.search_text(detector, "a red cup", top=1):
        ...     print(hit.file, round(hit.similarity, 1))
        coffee.jpg 0.5
    """

    def __init__(self, *, store: RegionStore) -> None:
        self._store = store
        self._accepted: weakref.ref[Detector] | None = None

    @classmethod
    def open(cls, path: str | Path) -> RegionIndex:
        """Open an index.

        Args:
            path: folder of the index.

        Raises:
            RetrievalError: there is no index, or it is damaged.
            MissingExtraError: LanceDB is not installed.
        """
        return cls(store=RegionStore.open(Path(path)))

    @classmethod
    def build(
        cls,
        path: str | Path,
        folder: str | Path,
        detector: Predictor | Detector,
        *,
        settings: RegionSettings | None = None,
        model_name: str = "the same model",
        rehash: bool = False,
        progress: Progress = iter,
    ) -> tuple[RegionIndex, UpdateReport]:
        """Make the index of a folder, or update it.

        Args:
            path: folder of the index.
            folder: folder of the images, which are searched for at all levels.
            detector: finds and embeds regions.
            settings: which regions are kept; None for those of the index, or the defaults for a new one.
            model_name: name or file of the model, for messages and as the default of searches.
            rehash: hash every file, also those with the same size and time of change.
            progress: wraps the list of files; called once.

        Returns:
            The index, and the counts of files.

        Raises:
            ImageError: there is no image in the folder.
            RetrievalError: the index belongs to another model, folder or settings, or cannot be read or written.
            CoraError: the place of the index cannot be written to.
            VocabularyError: the names in `settings` are unusable.
            MissingExtraError: LanceDB is not installed.
        """
        detector = network_of(detector)
        place, pictures = Path(path), Path(folder)
        if not list_pictures(pictures):
            raise no_pictures(pictures)
        identity = model_identity(detector)
        if not (place / MANIFEST).exists():
            check_free(place)
        with only_writer(place):
            if (place / MANIFEST).exists():
                store = RegionStore.open(place)
                _check_same(store, identity, pictures, settings)
            else:
                manifest = Manifest(
                    model=identity,
                    model_name=model_name,
                    width=detector.image_tower.embed_dim,
                    folder=str(pictures.resolve()),
                    settings=settings or RegionSettings(),
                )
                store = RegionStore.create(place, manifest)
            finder = RegionFinder(detector=detector, settings=store.manifest.settings)
            report = update(store, pictures, finder, rehash=rehash, progress=progress)
        return cls(store=store), report

    def __len__(self) -> int:
        """Number of stored regions."""
        return self._store.count()

    @property
    def folder(self) -> Path:
        """The indexed folder; `Hit.file` is relative to it."""
        return Path(self._store.manifest.folder)

    @property
    def settings(self) -> RegionSettings:
        """Which regions are kept."""
        return self._store.manifest.settings

    @property
    def model_name(self) -> str:
        """Name or file of the model, as it was given when the index was made."""
        return self._store.manifest.model_name

    def search_text(
        self, detector: Predictor | Detector, text: str, top: int = 10, *, per_picture: int | None = None
    ) -> list[Hit]:
        """Regions that look like a text, best first.

        Args:
            detector: the model that the index was made with.
            text: a noun or a short phrase; "a", "an" or "the" in front makes no difference. "mug = cup | coffee cup"
                stands for the mean of its prompts.
            top: number of regions, at most.
            per_picture: number of regions of one image, at most; None for no limit.

        Raises:
            VocabularyError: the text is empty or too long.
            RetrievalError: the index is of another model, or damaged.
        """
        self.check_model(detector)
        words = _ARTICLE.sub("", text.strip())
        if not words:
            raise VocabularyError(f"expected a text to search for, got {text!r}; name a thing")
        encoder = detector.vocabulary_encoder
        query = encoder.encode(class_prompts([words])).embeddings[0]
        # Some regions are near to every word. Without the mean of many words, only what is special to this one counts.
        return self.search(query - encoder.encode(EVERYDAY_NAMES).embeddings.mean(dim=0), top, per_picture=per_picture)

    def search_image(
        self,
        detector: Predictor | Detector,
        image: ImageSource,
        box: Box | None = None,
        top: int = 10,
        *,
        per_picture: int | None = None,
    ) -> list[Hit]:
        """Regions that look like an image, or like a box in one, best first.

        Args:
            detector: the model that the index was made with.
            image: path, Pillow image or uint8 RGB array.
            box: left, top, right, bottom in pixels; None for the whole image.
            top: number of regions, at most.
            per_picture: number of regions of one image, at most; None for no limit.

        Raises:
            ImageError: the image cannot be read, or the box is not in it.
            RetrievalError: the index is of another model, or damaged.
        """
        self.check_model(detector)
        return self.search(embed_region(network_of(detector), image, box), top, per_picture=per_picture)

    def search(
        self, embedding: Tensor, top: int = 10, *, per_picture: int | None = None, exact: bool = False
    ) -> list[Hit]:
        """Regions of highest cosine with an embedding, best first.

        Args:
            embedding: [D], made with the index's model; of any length above 0.
            top: number of regions, at most.
            per_picture: number of regions of one image, at most; None for no limit.
            exact: compare with every region, also in a large index.

        Raises:
            RetrievalError: the index is damaged.
        """
        if top < 1:
            raise ValueError(f"top: expected at least 1, got {top}")
        width = self._store.manifest.width
        if embedding.shape != (width,):
            raise ValueError(f"embedding: expected shape [{width}], got {list(embedding.shape)}")
        query = embedding.detach().float().cpu().numpy()
        wanted = top
        while True:
            rows = self._store.nearest(query, wanted, exact=exact)
            hits = self._hits(rows, per_picture)
            # Regions beyond `per_picture`, or without a file after an interrupted run, may have taken places.
            if len(hits) >= top or len(rows) < wanted:
                return hits[:top]
            wanted *= 4

    def check_model(self, detector: Predictor | Detector) -> None:
        """Check that a model made the index, since embeddings of another cannot be compared with its own.

        Raises:
            RetrievalError: it is another model.
        """
        detector = network_of(detector)
        if self._accepted is not None and self._accepted() is detector:
            return
        _check_identity(self._store, model_identity(detector))
        self._accepted = weakref.ref(detector)

    def _hits(self, rows: list[StoredRegion], per_picture: int | None) -> list[Hit]:
        files = self._store.files_of(row.content for row in rows)
        taken: Counter[str] = Counter()
        hits = []
        for row in rows:
            names = files.get(row.content)
            if not names or (per_picture is not None and taken[row.content] >= per_picture):
                continue
            taken[row.content] += 1
            hits.append(Hit(names[0], row.box_xyxy_px, row.similarity, row.score, row.label, tuple(names[1:])))
        return hits


def _check_identity(store: RegionStore, identity: str) -> None:
    if store.manifest.model != identity:
        raise RetrievalError(
            f"index {store.place}: expected the model that made it ({store.manifest.model_name}), got another; "
            "use that one, or index the folder with this one ('cora index') under another --db"
        )


def _check_same(store: RegionStore, identity: str, folder: Path, settings: RegionSettings | None) -> None:
    """Check that an index has this model, folder and settings; a folder that was moved is noted."""
    _check_identity(store, identity)
    kept = Path(store.manifest.folder)
    if kept.resolve() != folder.resolve() and kept.exists():
        raise RetrievalError(f"index {store.place}: expected its folder {kept}, got {folder}; choose another --db")
    if kept.resolve() != folder.resolve():
        store.move_to(folder.resolve())
    if settings is not None and settings != store.manifest.settings:
        differing = next(
            name for name, value in vars(settings).items() if value != getattr(store.manifest.settings, name)
        )
        raise RetrievalError(
            f"index {store.place}: expected the {differing} that it was made with, got other; choose another --db"
        )
