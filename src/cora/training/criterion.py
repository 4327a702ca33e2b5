"""The training objective of the localizer. Every decoder layer is matched separately and learns from its matches."""

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
    """Matched pairs of one decoder layer, all images together.

    Attributes:
        image: [K] int64 index of the image in the batch.
        query: [K] int64 index of the query.
        target: [K] int64 index of the box within its image.
    """

    image: Tensor
    query: Tensor
    target: Tensor

    def __len__(self) -> int:
        return self.query.shape[0]

    def of(self, targets: Sequence[Targets]) -> Targets:
        """The matched boxes [K] of a batch's targets, in the order of the matches."""
        starts = torch.tensor([0] + [len(one) for one in targets], device=self.image.device).cumsum(0)
        index = starts[self.image] + self.target
        return Targets(
            boxes_cxcywh=torch.cat([one.boxes_cxcywh for one in targets])[index],
            classes=torch.cat([one.classes for one in targets])[index],
        )


@dataclass(frozen=True)
class LossSums:
    """Losses of a batch, or of one copy of it, before they are divided by the number of matched boxes.

    Attributes:
        losses: scalars by name, unweighted: `objectness`, `l1`, `giou` of the last layer, `objectness_0`, ... of the
            others.
        matched: boxes matched in the last layer.
        boxes: boxes in all.
    """

    losses: dict[str, Tensor]
    matched: int
    boxes: int


class Criterion(nn.Module):
    """Focal loss on objectness, L1 and GIoU on matched boxes, of all layers, as in CORA (arXiv 2303.13076).

    Heads with class logits override `query_logits` and `query_loss`.

    Args:
        weights: of the losses in the total; the matching always uses the default weights.
    """

    def __init__(self, *, weights: LossWeights | None = None) -> None:
        super().__init__()
        self.weights = weights or LossWeights()

    def forward(
        self, output: LocalizerOutput, targets: Sequence[Targets], allowed: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            output: of the localizer, L layers.
            targets: boxes of each image.
            allowed: for each image [N, T] bool: which query may match which box, usually those of the same
                pre-matched class.

        Returns:
            Scalars: `objectness`, `l1`, `giou` of the last layer and `objectness_0`, ... of the others,
            unweighted; `total`, weighted, to be minimised; `matched_share`, boxes matched in the last layer
            over all boxes (0..1, for reading only).

        Raises:
            TrainingError: predictions that are not finite.
        """
        return self.normalised([self.sums(output, targets, allowed)])

    def sums(self, output: LocalizerOutput, targets: Sequence[Targets], allowed: Sequence[Tensor]) -> LossSums:
        """Losses before they are divided; arguments and errors as for `forward`."""
        matches = self.match(output, targets, allowed)
        losses: dict[str, Tensor] = {}
        for layer, matched in enumerate(matches):
            suffix = "" if layer == len(matches) - 1 else f"_{layer}"
            found = self._layer_losses(output, layer, targets, matched)
            losses.update({f"{name}{suffix}": value for name, value in found.items()})
        return LossSums(losses, matched=len(matches[-1]), boxes=sum(len(one) for one in targets))

    def normalised(self, copies: Sequence[LossSums]) -> dict[str, Tensor]:
        """Losses of all copies of a batch, as if they were one larger batch. Returns what `forward` returns.

        The one divisor is the number of boxes matched in all copies, as in the published code: a copy with few boxes
        has a small weight.
        """
        some = next(iter(copies[0].losses.values()))
        matched = sum(copy.matched for copy in copies)
        divisor = mean_over_processes(some.new_tensor(matched, dtype=torch.float32))
        losses = {
            name: torch.stack([copy.losses[name] for copy in copies]).sum() / divisor for name in copies[0].losses
        }
        weights = {"objectness": self.weights.objectness, "l1": self.weights.l1, "giou": self.weights.giou}
        total = torch.stack([weights[name.split("_")[0]] * value for name, value in losses.items()]).sum()
        share = matched / max(1, sum(copy.boxes for copy in copies))
        return {**losses, "total": total, "matched_share": total.new_tensor(share)}

    def match(self, output: LocalizerOutput, targets: Sequence[Targets], allowed: Sequence[Tensor]) -> list[Matches]:
        """Match every layer separately. Takes the arguments of `forward`."""
        layers, batch, _ = output.objectness.shape
        if not len(targets) == len(allowed) == batch:
            raise ValueError(
                f"criterion: expected targets and allowed pairs of {batch} images, "
                f"got {len(targets)} and {len(allowed)}"
            )
        pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(layers)]
        for image, (one, pairs_allowed) in enumerate(zip(targets, allowed, strict=True)):
            # All layers at once: one transfer from the device per image.
            cost, giou = matching_cost(
                self.query_logits(output, image, one).flatten(0, 1),
                output.boxes_cxcywh[:, image].flatten(0, 1),
                one.boxes_cxcywh,
                LossWeights(),
            )
            costs, gious, may = cost.cpu().chunk(layers), giou.cpu().chunk(layers), pairs_allowed.cpu()
            for layer in range(layers):
                pairs[layer].append(assign(costs[layer], gious[layer], may))
        return [_join(layer, output.objectness.device) for layer in pairs]

    def query_logits(self, output: LocalizerOutput, image: int, targets: Targets) -> Tensor:
        """Logit that a query is the object, for the matching: [L, N], or [L, N, T] where it depends on the box."""
        return output.objectness[:, image]

    def query_loss(self, output: LocalizerOutput, layer: int, targets: Sequence[Targets], matches: Matches) -> Tensor:
        """Sum of the focal losses of all queries of a layer: matched ones are objects, the others are not."""
        logits = output.objectness[layer]
        is_object = torch.zeros_like(logits, dtype=torch.bool)
        is_object[matches.image, matches.query] = True
        return sigmoid_focal_loss(logits, is_object).sum()

    def _layer_losses(
        self, output: LocalizerOutput, layer: int, targets: Sequence[Targets], matches: Matches
    ) -> dict[str, Tensor]:
        found = output.boxes_cxcywh[layer, matches.image, matches.query]
        wanted = matches.of(targets).boxes_cxcywh
        return {
            "objectness": self.query_loss(output, layer, targets, matches),
            "l1": l1_loss(found, wanted),
            "giou": giou_loss(found, wanted).sum(),
        }


def _join(pairs: list[tuple[Tensor, Tensor]], device: torch.device) -> Matches:
    image = torch.cat([torch.full_like(query, index) for index, (query, _) in enumerate(pairs)])
    query, target = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    return Matches(image=image.to(device), query=query.to(device), target=target.to(device))
