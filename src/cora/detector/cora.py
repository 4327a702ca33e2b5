"""CORA: a frozen CLIP, region prompting, anchor pre-matching and a DAB-DETR localizer (Wu et al., arXiv 2303.13076).

`Detector.forward` is the paper's Figure 1; docs/method.md draws it with file names. To detect objects in images by
class names, use `cora.predictor.Predictor`, which contains a `Detector`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from cora.detector.checkpoint import write_checkpoint
from cora.detector.config import DetectorConfig, check_pool_size
from cora.detector.fast_scoring import scatter_rows, worth_exact_pooling
from cora.detector.former_names import former_names
from cora.detector.outputs import DetectorOutput, PreMatched, Seen
from cora.detector.postprocess import best_boxes, combine_scores
from cora.images import Preprocessor
from cora.localizer import Localizer, LocalizerOutput, Memory, pre_match
from cora.regions import (
    FastAlignment,
    LearnedText,
    Prepared,
    RegionClassifier,
    RegionPooling,
    RegionPrompt,
    Vocabulary,
    VocabularyEncoder,
    build_learned_text,
    default_cache_dir,
    region_pooling,
)
from cora.structures import FeatureMap, ImageBatch
from cora.towers import ImageTower, TextTower, build_towers
from cora.towers.folding import Precision


class Detector(nn.Module):
    """The network of the paper: tensors in, tensors out.

    `forward` runs the steps in this order: `encode`, `encode_map`, `anchors`, `pre_match`, `decode`,
    `select_top_boxes`, `classify_best`. Each is a public method, so that evaluation, feature caches and oracles can
    recombine them. `Detector.build` makes an untrained detector from a config; `cora.load(...).detector` is a trained
    one.

    Args:
        image_tower: frozen; computes the feature maps C3 and C4.
        text_tower: frozen; embeds class names.
        prompt: region prompt, added to the pooled features of a region before they are embedded.
        classifier: compares embeddings of regions and of class names, and gives class probabilities.
        localizer: refines anchors to boxes.
        vocabulary_encoder: makes a `Vocabulary` from class names, with `text_tower`.
        preprocessor: makes an `ImageBatch` from images.
        config: sizes of all parts, and the settings of post-processing.
        fast_alignment: correction of fast embeddings towards exact ones; None for none.
        precision: default precision of a `Predictor` for the image tower and the localizer's layers.

    Examples:
        >>> network = cora.load("nano").detector
        >>> batch = network.preprocessor([Image.open("coffee.jpg")])
        >>> vocabulary = network.vocabulary_encoder.encode(["cup", "spoon"])
        >>> with torch.inference_mode():
        ...     c3, c4 = network.encode(batch)
        ...     memory = network.encode_map(c3)
        ...     matched = network.pre_match(c4, network.anchors(memory), vocabulary)
        ...     decoded = network.decode(memory, matched)
        >>> decoded.boxes_cxcywh.shape  # layers, images, anchors, (cx, cy, w, h)
        torch.Size([2, 1, 120, 4])
    """

    def __init__(
        self,
        *,
        image_tower: ImageTower,
        text_tower: TextTower,
        prompt: RegionPrompt,
        classifier: RegionClassifier,
        localizer: Localizer,
        vocabulary_encoder: VocabularyEncoder,
        preprocessor: Preprocessor,
        config: DetectorConfig,
        fast_alignment: FastAlignment | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.prompt = prompt
        self.classifier = classifier
        self.localizer = localizer
        self.vocabulary_encoder = vocabulary_encoder
        self.learned_text = vocabulary_encoder.learned
        self.fast_alignment = fast_alignment
        self.preprocessor = preprocessor
        self.config = config
        self.precision = precision

    @classmethod
    def build(
        cls,
        config: DetectorConfig,
        *,
        towers: tuple[ImageTower, TextTower] | None = None,
        cache_dir: str | Path | None = None,
        precision: Precision = "float32",
    ) -> Self:
        """Build an untrained detector: the given towers, a zero region prompt and a localizer with random weights.

        Args:
            config: sizes of all parts.
            towers: image and text tower that fit `config.tower`; None for towers with random weights.
            cache_dir: folder of cached class embeddings; None for the user's cache folder.
            precision: default precision of a `Predictor`.

        Returns:
            A detector in training mode; its towers are frozen.
        """
        image_tower, text_tower = towers or build_towers(config.tower)
        return cls(
            image_tower=image_tower,
            text_tower=text_tower,
            prompt=RegionPrompt(cells=image_tower.prompt_shape[0], channels=image_tower.prompt_shape[1]),
            classifier=RegionClassifier(scale=config.tower.logit_scale, background=config.tower.background),
            localizer=Localizer.from_config(config.localizer),
            vocabulary_encoder=VocabularyEncoder(
                text_tower=text_tower,
                templates=config.tower.templates,
                learned=None if config.text is None else build_learned_text(config.text),
                cache_dir=default_cache_dir() if cache_dir is None else cache_dir,
            ),
            preprocessor=Preprocessor.from_config(config.preprocess),
            config=config,
            fast_alignment=FastAlignment(embed_dim=config.tower.embed_dim) if config.fast_alignment else None,
            precision=precision,
        )

    @former_names(least_score="score_threshold")
    def forward(self, batch: ImageBatch, vocabulary: Vocabulary, *, score_threshold: float = 0.0) -> DetectorOutput:
        """Run the network: `see`, which needs only the images, then `detect`, which needs the class names, too.

        Args:
            batch: B images, on the detector's device.
            vocabulary: C classes, on the same device.
            score_threshold: 0..1; boxes whose score cannot reach it keep the scores of fast pooling, which saves time.
        """
        return self.detect(self.see(batch), vocabulary, score_threshold=score_threshold)

    def see(self, batch: ImageBatch) -> Seen:
        """Encode images and find their anchors, without class names; run it once for several vocabularies."""
        c3, c4 = self.encode(batch)
        memory = self.encode_map(c3)
        return Seen(c3, self.prepare_fast_pooling(c4), memory, self.anchors(memory))

    @former_names(least_score="score_threshold")
    def detect(self, seen: Seen, vocabulary: Vocabulary, *, score_threshold: float = 0.0) -> DetectorOutput:
        """Compute boxes and scores for the C classes of a vocabulary, before suppression.

        Args:
            seen: output of `see`.
            vocabulary: C classes, on the same device.
            score_threshold: as in `forward`.
        """
        matched = self.pre_match(seen.prepared, seen.anchors_cxcywh, vocabulary)
        decoded = self.decode(seen.memory, matched)
        boxes, objectness = self.select_top_boxes(decoded)
        probabilities = self.classify_best(seen.c3, seen.prepared, boxes, objectness, vocabulary, score_threshold)
        scores = combine_scores(probabilities, objectness, self.config.postprocess.objectness_power)
        return DetectorOutput(boxes, objectness, probabilities, scores)

    def encode(self, batch: ImageBatch) -> tuple[FeatureMap, FeatureMap]:
        """Compute the feature maps C3 and C4 with the frozen image tower.

        Returns:
            For a CLIP ResNet or a ConvNeXt and a batch of H x W pixels: C3 [B, c3_channels, H / 16, W / 16] and C4
            [B, channels, H / 32, W / 32], with their masks. A timm backbone returns one packed map of stride 32 as
            both (`cora.pyramid`).
        """
        return self.image_tower.features(batch)

    def encode_map(self, c3: FeatureMap) -> Memory:
        """Encode C3 for the localizer: the memory that queries attend to, and that anchors may be proposed from."""
        start = self.image_tower.boxes(c3)
        return self.localizer.encode(replace(c3, features=c3.features.to(self.localizer.dtype)), start)

    @property
    def pooling(self) -> RegionPooling:
        """The exact and fast pooling that fit the image tower."""
        return region_pooling(self.image_tower)

    def prepare_fast_pooling(self, c4: FeatureMap) -> Prepared:
        """Compute the input of fast pooling from C4; pre-matching and fast scores share it."""
        return self.pooling.prepare(c4)

    project = prepare_fast_pooling  # its former name

    def anchors(self, memory: Memory) -> Tensor:
        """Anchors [B, N, 4], cxcywh in 0..1 of the unpadded image: learned, or proposed from the encoded map."""
        return self.localizer.anchors(memory)

    def pre_match(self, c4: FeatureMap | Prepared, anchors_cxcywh: Tensor, vocabulary: Vocabulary) -> PreMatched:
        """Match every anchor with the class whose text embedding is nearest to the embedding of its region.

        Args:
            c4: feature map C4, or the output of `prepare_fast_pooling`.
            anchors_cxcywh: [B, N, 4], 0..1 of the unpadded image.
            vocabulary: C classes. Class weights have an effect in this step only.
        """
        with torch.no_grad():
            regions = self.embed_fast(c4, anchors_cxcywh)
            classes = pre_match(
                regions, vocabulary.embeddings, vocabulary.weights, logit_scale=self.config.tower.logit_scale
            )
        return PreMatched(anchors_cxcywh, classes, vocabulary.embeddings)

    def decode(self, memory: Memory, matched: PreMatched) -> LocalizerOutput:
        """Refine pre-matched anchors: boxes [L, B, N, 4] and objectness logits [L, B, N] of all L decoder layers."""
        content = self.localizer.query_content(matched.class_embeddings, matched.classes)
        return self.localizer.decode(memory, matched.anchors_cxcywh, content)

    def select_top_boxes(self, decoded: LocalizerOutput) -> tuple[Tensor, Tensor]:
        """Keep the `max_scored_boxes` best boxes [B, K, 4] of the last decoder layer by objectness logit [B, K]."""
        return best_boxes(decoded.boxes_cxcywh[-1], decoded.objectness[-1], self.config.postprocess.max_scored_boxes)

    worth_scoring = select_top_boxes  # its former name

    def classify(self, c3: FeatureMap, boxes_cxcywh: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Class probabilities [B, N, C] of boxes [B, N, 4] by exact pooling.

        They sum to less than 1: the rest is the probability of background and of distractors.
        """
        probabilities: Tensor = self.classifier(self.embed_exact(c3, boxes_cxcywh), vocabulary.all_embeddings)
        return probabilities[..., : len(vocabulary)]

    @former_names(least_score="score_threshold", projected="prepared")
    def classify_best(
        self,
        c3: FeatureMap,
        prepared: Prepared,
        boxes_cxcywh: Tensor,
        objectness: Tensor,
        vocabulary: Vocabulary,
        score_threshold: float = 0.0,
    ) -> Tensor:
        """Class probabilities [B, K, C] of boxes: exact pooling for those that can matter, else fast pooling.

        `cora.detector.fast_scoring` says which boxes can matter. If `exact_boxes` is 0, all boxes are pooled exactly,
        as published.

        Args:
            c3: feature map for exact pooling.
            prepared: input of fast pooling, from `prepare_fast_pooling`.
            boxes_cxcywh: [B, K, 4], 0..1 of the unpadded image.
            objectness: [B, K] logits.
            vocabulary: C classes.
            score_threshold: 0..1; boxes whose score cannot reach it are not pooled exactly.
        """
        config, classes = self.config.postprocess, len(vocabulary)
        if config.exact_boxes == 0:
            return self.classify(c3, boxes_cxcywh, vocabulary)
        fast = self.classifier(self.embed_aligned(prepared, boxes_cxcywh), vocabulary.all_embeddings)[..., :classes]
        objectness_factors = objectness.sigmoid().pow(config.objectness_power)
        chosen = [
            worth_exact_pooling(
                boxes,
                probabilities * factors[:, None],
                factors,
                count=config.exact_boxes,
                nms_iou=config.nms_iou,
                score_threshold=score_threshold,
            )
            for boxes, probabilities, factors in zip(boxes_cxcywh, fast, objectness_factors, strict=True)
        ]
        kept = [boxes[indices] for boxes, indices in zip(boxes_cxcywh, chosen, strict=True)]
        exact = self.classifier(self._pool_exactly(c3, kept), vocabulary.all_embeddings)[..., :classes]
        return scatter_rows(fast, chosen, exact)

    def embed_exact(self, c3: FeatureMap, boxes_cxcywh: Tensor) -> Tensor:
        """Unit embeddings [B, N, D] of boxes [B, N, 4] by exact pooling with the region prompt."""
        pooled = self._pool_exactly(c3, boxes_cxcywh)
        return pooled.view(*boxes_cxcywh.shape[:2], self.image_tower.embed_dim)

    def _pool_exactly(self, c3: FeatureMap, boxes_cxcywh: Tensor | Sequence[Tensor]) -> Tensor:
        """`embed_exact` without batch dimension, [sum N_i, D], so that images may have different numbers of boxes."""
        pooled = self.pooling.exact(c3, boxes_cxcywh, self.prompted_positions())
        return pooled.to(self.prompt.offset.dtype)

    def embed_fast(self, c4: FeatureMap | Prepared, boxes_cxcywh: Tensor) -> Tensor:
        """Unit embeddings [B, N, D] of boxes [B, N, 4] by fast pooling with the region prompt."""
        prepared = self.prepare_fast_pooling(c4) if isinstance(c4, FeatureMap) else c4
        pooled = self.pooling.fast(prepared, boxes_cxcywh, self.prompted_positions())
        return pooled.view(*boxes_cxcywh.shape[:2], self.image_tower.embed_dim).to(self.prompt.offset.dtype)

    @former_names(projected="prepared")
    def embed_aligned(self, prepared: Prepared, boxes_cxcywh: Tensor) -> Tensor:
        """`embed_fast`, then the fast alignment, if the detector has one."""
        regions = self.embed_fast(prepared, boxes_cxcywh)
        return regions if self.fast_alignment is None else self.fast_alignment(regions, boxes_cxcywh)

    def prompted_positions(self) -> Tensor:
        """The table [P, C] that pooling adds to the cells of a region: the tower's positions plus the region prompt."""
        positions: Tensor = self.prompt(self.image_tower.positions)
        return positions.to(self.image_tower.dtype)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.prompt.offset.device

    def with_parts(self, **parts: Any) -> Self:
        """A detector that shares all modules with this one, except for the given parts; this one does not change.

        Args:
            parts: new values of attributes by name, such as `config` or `localizer`.
        """
        shared = [*self.children(), *(value for name, value in vars(self).items() if not name.startswith("_"))]
        view = copy.deepcopy(self, {id(part): part for part in shared})
        for name, part in parts.items():
            setattr(view, name, part)
        return view

    def learn_text(self, learned: LearnedText | None) -> None:
        """Set and freeze the learned text of the class embeddings; None removes it.

        Raises:
            ValueError: its width does not fit the text tower.
        """
        self.config = replace(self.config, text=None if learned is None else learned.config)
        if learned is not None:
            learned.requires_grad_(False).to(self.device)
        self.learned_text = self.vocabulary_encoder.learned = learned

    def set_pool_size(self, pool_size: int) -> None:
        """Change S, the side of the grid of S x S cells that regions are pooled to, in place.

        The region prompt and the positional table of a CLIP ResNet are interpolated (bicubic). The fast alignment, if
        there is one, was fitted for the old S and is reset to zero, so that fast pooling is as published.

        Args:
            pool_size: the new S, 1 to `LARGEST_POOL_SIZE`.

        Raises:
            ModelError: S is out of range, or the detector is a variant.
        """
        check_pool_size(self.config, pool_size)
        if pool_size == self.image_tower.pool_size:
            return
        self.image_tower.set_pool_size(pool_size)
        self.prompt.resample(pool_size)
        self.config = replace(self.config, tower=replace(self.config.tower, pool_size=pool_size))
        if self.fast_alignment is not None:
            self.align_fast_pooling(FastAlignment(embed_dim=self.config.tower.embed_dim))

    def align_fast_pooling(self, alignment: FastAlignment | None) -> None:
        """Set the fast alignment; None removes it.

        Raises:
            ValueError: its width is not the D of the towers.
        """
        own = self.config.tower.embed_dim
        if alignment is not None and alignment.shift.out_features != own:
            raise ValueError(f"fast alignment: expected width {own}, got {alignment.shift.out_features}")
        self.config = replace(self.config, fast_alignment=alignment is not None)
        self.fast_alignment = None if alignment is None else alignment.to(self.prompt.offset)

    def save(self, path: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write config (with the templates in use) and weights as one safetensors file, which `cora.load` reads.

        Args:
            path: file to write; an existing one is replaced.
            dtype: floating type of the weights in the file.

        Raises:
            ModelError: the file cannot be written, or a weight does not fit into half precision.
        """
        tower = replace(self.config.tower, templates=self.vocabulary_encoder.templates)
        write_checkpoint(path, replace(self.config, tower=tower), self.state_dict(), dtype=dtype)
