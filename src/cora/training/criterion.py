"""The training objective of the localizer. Every decoder layer has its own matching and its own losses, as in DETR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cora.localizer import LocalizerOutput
from cora.structures import Targets
from cora.training.losses import LossWeights, giou_loss, l1_loss, mean_over_processes, sigmoid_focal_loss
from cora.training.matching import assign, matching_cost


@dataclass(frozen=True)
class Matches:
    """The K matched pairs of one decoder layer, over all images of a batch.

    Attributes:
        image: [K] int64 index of the image in the batch.
        query: [K] int64 index of the query.
        target: [K] int64 index of the ground-truth box in its image.
    """

    image: Tensor
    query: Tensor
    target: Tensor

    def __len__(self) -> int:
        return self.query.shape[0]

    def of(self, targets: Sequence[Targets]) -> Targets:
        """The K matched ground-truth boxes, in the order of the matches."""
        starts = torch.tensor([0] + [len(one) for one in targets], device=self.image.device).cumsum(0)
        index = starts[self.image] + self.target
        return Targets(
            boxes_cxcywh=torch.cat([one.boxes_cxcywh for one in targets])[index],
            classes=torch.cat([one.classes for one in targets])[index],
        )


@dataclass(frozen=True)
class LossSums:
    """Losses of a batch, or of one copy of it (class dropout), before division by the number of matched boxes.

    Attributes:
        losses: unweighted scalars: `objectness`, `l1`, `giou` of the last layer, `objectness_0`, ... of the others.
        matched: number of boxes matched in the last layer.
        boxes: number of all boxes.
    """

    losses: dict[str, Tensor]
    matched: int
    boxes: int


class Criterion(nn.Module):
    """Focal loss of the objectness, L1 and GIoU loss of matched boxes, for all layers, as in CORA (arXiv 2303.13076).

    A criterion for class logits in place of objectness overrides `query_logits` and `query_loss`.

    Args:
        weights: of the losses in the total. The matching cost always uses the default weights.
    """

    def __init__(self, *, weights: LossWeights | None = None) -> None:
        super().__init__()
        self.weights = weights or LossWeights()

    def forward(
        self, output: LocalizerOutput, targets: Sequence[Targets], allowed: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            output: of the localizer with L layers.
            targets: the T boxes of each image.
            allowed: for each image [N, T] bool, True where the query may match the box; usually where the query's
                pre-matched class is that of the box.

        Returns:
            Scalars: `objectness`, `l1`, `giou` of the last layer and `objectness_0`, ... of the others,
            unweighted; `total`, their weighted sum, to be minimised; `matched_share`, the share of the boxes that are
            matched in the last layer (0..1, a metric without gradient).

        Raises:
            TrainingError: predictions are not finite.
            ValueError: targets or allowed pairs of another number of images.
        """
        return self.normalised([self.sums(output, targets, allowed)])

    def sums(self, output: LocalizerOutput, targets: Sequence[Targets], allowed: Sequence[Tensor]) -> LossSums:
        """Losses before division by the number of matched boxes; arguments and errors as in `forward`."""
        matches = self.match(output, targets, allowed)
        losses: dict[str, Tensor] = {}
        for layer, matched in enumerate(matches):
            suffix = "" if layer == len(matches) - 1 else f"_{layer}"
            layer_losses = self._layer_losses(output, layer, targets, matched)
            losses.update({f"{name}{suffix}": value for name, value in layer_losses.items()})
        return LossSums(losses, matched=len(matches[-1]), boxes=sum(len(one) for one in targets))

    def normalised(self, copies: Sequence[LossSums]) -> dict[str, Tensor]:
        """Losses of all copies of a batch, as if they were one larger batch. Returns what `forward` returns.

        As in the published code, the sums of all copies have one divisor: the number of boxes matched in all of them.
        """
        any_loss = next(iter(copies[0].losses.values()))
        matched = sum(copy.matched for copy in copies)
        divisor = mean_over_processes(any_loss.new_tensor(matched, dtype=torch.float32))
        losses = {
            name: torch.stack([copy.losses[name] for copy in copies]).sum() / divisor for name in copies[0].losses
        }
        weights = {"objectness": self.weights.objectness, "l1": self.weights.l1, "giou": self.weights.giou}
        total = torch.stack([weights[name.split("_")[0]] * value for name, value in losses.items()]).sum()
        share = matched / max(1, sum(copy.boxes for copy in copies))
        return {**losses, "total": total, "matched_share": total.new_tensor(share)}

    def match(self, output: LocalizerOutput, targets: Sequence[Targets], allowed: Sequence[Tensor]) -> list[Matches]:
        """Match every layer separately; arguments and errors as in `forward`, one `Matches` per layer."""
        layers, batch, _ = output.objectness.shape
        if not len(targets) == len(allowed) == batch:
            raise ValueError(
                f"criterion: expected targets and allowed pairs of {batch} images, "
                f"got {len(targets)} and {len(allowed)}"
            )
        pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(layers)]
        for image, (one, pairs_allowed) in enumerate(zip(targets, allowed, strict=True)):
            # The costs of all layers at once, so that each image needs only one transfer to the CPU.
            cost, giou = matching_cost(
                self.query_logits(output, image, one).flatten(0, 1),
                output.boxes_cxcywh[:, image].flatten(0, 1),
                one.boxes_cxcywh,
                LossWeights(),
            )
            costs, gious, mask = cost.cpu().chunk(layers), giou.cpu().chunk(layers), pairs_allowed.cpu()
            for layer in range(layers):
                pairs[layer].append(assign(costs[layer], gious[layer], mask))
        return [_join(layer, output.objectness.device) for layer in pairs]

    def query_logits(self, output: LocalizerOutput, image: int, targets: Targets) -> Tensor:
        """Logits for the matching cost that a query is an object: [L, N], or [L, N, T] if they depend on the box."""
        return output.objectness[:, image]

    def query_loss(self, output: LocalizerOutput, layer: int, targets: Sequence[Targets], matches: Matches) -> Tensor:
        """Sum of the focal losses of all queries of a layer; matched queries are objects, the others background."""
        logits = output.objectness[layer]
        is_object = torch.zeros_like(logits, dtype=torch.bool)
        is_object[matches.image, matches.query] = True
        return sigmoid_focal_loss(logits, is_object).sum()

    def _layer_losses(
        self, output: LocalizerOutput, layer: int, targets: Sequence[Targets], matches: Matches
    ) -> dict[str, Tensor]:
        boxes = output.boxes_cxcywh[layer, matches.image, matches.query]
        target_boxes = matches.of(targets).boxes_cxcywh
        return {
            "objectness": self.query_loss(output, layer, targets, matches),
            "l1": l1_loss(boxes, target_boxes),
            "giou": giou_loss(boxes, target_boxes).sum(),
        }


def _join(pairs: list[tuple[Tensor, Tensor]], device: torch.device) -> Matches:
    """Concatenate the (queries, targets) of the images, in their order."""
    image = torch.cat([torch.full_like(query, index) for index, (query, _) in enumerate(pairs)])
    query, target = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    return Matches(image=image.to(device), query=query.to(device), target=target.to(device))
