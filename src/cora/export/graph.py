"""The detector as one graph of tensors: the same steps, with shapes that do not depend on values.

Inputs: `pixels` [B, 3, H, W] float32, normalised and padded at the right and the bottom; `sizes_hw` [B, 2] int64,
height and width of every image without its padding. Where the vocabulary is an input also `embeddings` [C, D]
float32, unit rows, and `log_weights` [C] float32: the logarithm of each class's weight in pre-matching, 0 by default,
or `COMPETES` for a distractor, which takes its share of the probabilities but is never matched.

Outputs: `boxes` [B, K, 4], cxcywh in 0..1 of the unpadded image, and `scores` [B, K, C]. With suppression in the
graph `boxes` [B, M, 4], `scores` [B, M] in descending order and `labels` [B, M], -1 after the last detection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.boxes import cxcywh_to_xyxy
from cora.detector import Detector, PreMatched, combine_scores
from cora.detector.postprocess import best_boxes
from cora.export.manifest import Manifest
from cora.export.suppression import Suppress, best_proposals, select_in_graph
from cora.localizer import Memory
from cora.localizer.localizer import CONSIDERED
from cora.localizer.pyramid import PyramidMemory
from cora.regions import Prepared, RegionPooling, Vocabulary, region_pooling
from cora.structures import FeatureMap

#: Logarithm of the weight of distractors: far below that of any class.
COMPETES = -1e4

#: Parts of a detector that a graph is made of.
_IN_GRAPH = ("image_tower", "prompt", "classifier", "localizer", "fast_alignment")


class GraphDetector(Detector):
    """A view of a detector whose steps have no value-dependent shapes; both share their modules.

    Attributes:
        suppress: how boxes are suppressed; formats differ in what they can express.
    """

    suppress: Suppress

    @classmethod
    def of(cls, detector: Detector, suppress: Suppress) -> GraphDetector:
        """The view of a detector, without the modules that embed texts."""
        view = cls.__new__(cls)
        view.__dict__.update(vars(detector))
        view._modules = {name: part for name, part in detector._modules.items() if name in _IN_GRAPH}
        view.suppress = suppress
        return view

    @property
    def pooling(self) -> RegionPooling:
        """Pooling whose shapes do not depend on values."""
        return region_pooling(self.image_tower, static=True)

    def anchors(self, memory: Memory) -> Tensor:
        """Anchors [B, N, 4], learned or proposed."""
        proposals = self.localizer.proposals
        if proposals is None:
            return super().anchors(memory)
        count = proposals.count
        considered = CONSIDERED * count if isinstance(memory, PyramidMemory) else None
        return best_proposals(self.localizer.propose(memory), count, suppress=self.suppress, considered=considered)


class DetectorGraph(nn.Module):
    """A detector with the constants of an export.

    Args:
        detector: in evaluation mode; its parts are shared, not copied.
        manifest: number of boxes, suppression.
        suppress: how boxes are suppressed; formats differ in what they can express.
    """

    def __init__(self, *, detector: Detector, manifest: Manifest, suppress: Suppress) -> None:
        super().__init__()
        self.detector = GraphDetector.of(detector, suppress)
        self.manifest = manifest
        self.suppress = suppress

    def forward(self, pixels: Tensor, sizes_hw: Tensor, embeddings: Tensor, log_weights: Tensor) -> tuple[Tensor, ...]:
        """Outputs as described above."""
        detector = self.detector
        c3, c4 = detector.image_tower.maps(pixels, _padding(pixels, sizes_hw))
        memory = detector.encode_map(c3)
        prepared = detector.prepare_fast_pooling(c4)
        anchors = detector.anchors(memory)
        classes = self.pre_match(prepared, anchors, embeddings, log_weights)
        decoded = detector.decode(memory, PreMatched(anchors, classes, embeddings))
        boxes, objectness = best_boxes(decoded.boxes_cxcywh[-1], decoded.objectness[-1], self.manifest.boxes)
        power = self.manifest.config.postprocess.objectness_power
        reported = (log_weights > COMPETES / 2).to(embeddings.dtype)
        if self.manifest.exact_boxes == self.manifest.boxes:
            probabilities = detector.classifier(detector.embed_exact(c3, boxes), embeddings)
        else:
            shares = objectness.sigmoid().pow(power).unsqueeze(-1)
            probabilities = self.classify_best(c3, prepared, boxes, shares * reported, embeddings)
        return self.select(boxes, combine_scores(probabilities, objectness, power), reported)

    def pre_match(self, prepared: Prepared, anchors_cxcywh: Tensor, embeddings: Tensor, log_weights: Tensor) -> Tensor:
        """Class [B, N] of each anchor, as `cora.localizer.pre_match` chooses it."""
        scores = self.detector.embed_fast(prepared, anchors_cxcywh) @ F.normalize(embeddings, dim=-1).T
        return (scores + log_weights / self.manifest.config.tower.logit_scale).argmax(dim=-1)

    def classify_best(
        self, c3: FeatureMap, prepared: Prepared, boxes_cxcywh: Tensor, shares: Tensor, embeddings: Tensor
    ) -> Tensor:
        """Class probabilities [B, K, C], from exact pooling for the best boxes, else from fast.

        Args:
            c3: map for exact pooling.
            prepared: map for fast pooling.
            boxes_cxcywh: [B, K, 4].
            shares: [B, K, C], factor of each class probability in the score; 0 for what is not reported.
            embeddings: [C, D].
        """
        detector = self.detector
        estimates: Tensor = detector.classifier(detector.embed_aligned(prepared, boxes_cxcywh), embeddings)
        best, classes = (estimates * shares).max(dim=-1, keepdim=True)
        numbers = torch.arange(embeddings.shape[0], device=classes.device)
        own_class = (best * (classes == numbers).to(best.dtype)).transpose(1, 2)
        iou = self.manifest.config.postprocess.nms_iou
        kept = self.suppress(cxcywh_to_xyxy(boxes_cxcywh), own_class, iou, 0.0).amax(dim=1)
        index = (best.squeeze(-1) * kept).topk(self.manifest.exact_boxes, dim=1).indices
        worth = torch.gather(kept, 1, index)
        boxes = torch.gather(boxes_cxcywh, 1, index.unsqueeze(-1).expand(-1, -1, 4))
        exact = detector.classifier(detector.embed_exact(c3, boxes), embeddings)
        # Rows are replaced by a product with zeros and ones, since runtimes differ in how they scatter.
        places = torch.arange(self.manifest.boxes, device=index.device)
        chosen = (index.unsqueeze(-1) == places).to(exact.dtype) * worth.unsqueeze(-1)  # [B, E, K]
        result: Tensor = estimates * (1 - chosen.sum(dim=1).unsqueeze(-1)) + chosen.transpose(1, 2) @ exact
        return result

    def select(self, boxes_cxcywh: Tensor, scores: Tensor, reported: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the graph: boxes and scores as they are, or after suppression."""
        if self.manifest.settings.nms == "outside":
            return boxes_cxcywh, scores
        config = self.manifest.config.postprocess
        return select_in_graph(
            boxes_cxcywh,
            scores * reported,
            suppress=self.suppress,
            iou=config.nms_iou,
            min_score=config.min_score,
            max_detections=config.max_detections,
        )


class FixedVocabularyGraph(nn.Module):
    """The same with the class embeddings as constants; `scores` leave the distractors out.

    Args:
        graph: with class embeddings as inputs.
        vocabulary: classes and distractors to fix.
    """

    embeddings: Tensor
    log_weights: Tensor

    def __init__(self, *, graph: DetectorGraph, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.open_graph = graph  # PyTorch keeps `graph` for itself
        self.classes = len(vocabulary)
        embeddings, log_weights = class_inputs(vocabulary)
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("log_weights", log_weights)

    def forward(self, pixels: Tensor, sizes_hw: Tensor) -> tuple[Tensor, ...]:
        """Outputs as described above."""
        outputs: tuple[Tensor, ...] = self.open_graph(pixels, sizes_hw, self.embeddings, self.log_weights)
        if self.open_graph.manifest.settings.nms == "inside":
            return outputs
        boxes, scores = outputs
        return boxes, scores[..., : self.classes]


def class_inputs(vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """`embeddings` [C + M, D] and `log_weights` [C + M] of C classes and M distractors, float32."""
    embeddings = vocabulary.all_embeddings.float()
    log_weights = embeddings.new_full((len(embeddings),), COMPETES)
    log_weights[: len(vocabulary)] = 0.0 if vocabulary.weights is None else vocabulary.weights.float().log()
    return embeddings, log_weights


def _padding(pixels: Tensor, sizes_hw: Tensor) -> Tensor:
    """Mask [B, H, W] of a batch, True where it is padded."""
    rows, columns = (
        torch.arange(side, device=pixels.device) >= sizes_hw[:, axis : axis + 1]
        for axis, side in enumerate(pixels.shape[-2:])
    )
    return rows.unsqueeze(2) | columns.unsqueeze(1)
