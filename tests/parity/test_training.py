"""One training step through the whole detector, from images to gradients, against the published code.

Dropout is 0 and there is no class dropout, as in the published numbers: the modules run in evaluation mode.
"""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cora.detector import Detector, detector_from_published
from cora.detector.published_localizer import published_localizer_state
from cora.localizer import LocalizerOutput
from cora.regions import Vocabulary
from cora.training.criterion import Criterion
from cora.training.localizer_task import LocalizerTask
from tests.parity.toy import Toy, assert_close

LOSSES = {"objectness": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou"}

COMPARED = (
    # where in tests/parity, and the expected numbers it compares (prefixes)
    ("test_detector", ("text_tower", "features.", "mask.", "roi_", "pre_matched_class", "pred_", "detections.")),
    ("test_localizer_parity", ("pos_embed", "memory", "class_queries", "hs", "reference", "aux_", "matched.")),
    ("test_training", ("loss.", "grad.")),
    ("inputs", ("targets.", "class_embeddings", "anchors_sorted_logit")),
)


class Recorded(Criterion):
    """A criterion that keeps what it was given."""

    output: LocalizerOutput

    def forward(self, output: LocalizerOutput, targets, allowed) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
        self.output = output
        return super().forward(output, targets, allowed)


@dataclasses.dataclass(frozen=True)
class Step:
    detector: Detector
    output: LocalizerOutput
    losses: dict[str, Tensor]
    frozen_before: dict[str, Tensor]


def frozen_part(detector: Detector) -> Iterator[tuple[str, Tensor]]:
    return ((name, value) for name, value in detector.state_dict().items() if not name.startswith("localizer."))


@pytest.fixture(scope="module")
def step(toy: Toy) -> Step:
    detector = detector_from_published(toy.state_dict)
    before = {name: value.clone() for name, value in frozen_part(detector)}
    criterion = Recorded()
    vocabulary = Vocabulary(toy.names, toy.expected["class_embeddings"])
    task = LocalizerTask(detector=detector, vocabulary=vocabulary, criterion=criterion).eval()
    losses = task((toy.batch, tuple(toy.targets)))
    losses["loss"].backward()
    return Step(detector, criterion.output, losses, before)


@pytest.mark.parametrize("layer", ["", "_0", "_1"])
@pytest.mark.parametrize("own", LOSSES)
def test_losses(toy: Toy, step: Step, own: str, layer: str) -> None:
    assert_close(step.losses[own + layer], toy.expected[f"loss.{LOSSES[own]}{layer}"])


def test_total_and_matched_share(toy: Toy, step: Step) -> None:
    assert_close(step.losses["loss"], toy.expected["loss.total"])
    assert_close(step.losses["matched_share"], toy.expected["loss.matched_gt"])
    weights = toy.meta["weights"]
    total = sum(weights[f"{name}{layer}"] * toy.expected[f"loss.{name}{layer}"] for name in LOSSES.values()
                for layer in ("", "_0", "_1"))  # fmt: skip
    assert_close(step.losses["loss"], torch.as_tensor(total))


def test_what_the_published_code_only_logs(toy: Toy, step: Step) -> None:
    # Its counts take an argmax over the one logit of objectness there is, which says nothing; losses do not use them.
    boxes = torch.tensor([float(len(targets)) for targets in toy.targets])
    for layer, suffix in enumerate(("_0", "_1", "")):
        logits = step.output.objectness[layer].unsqueeze(-1)
        counted = (logits.argmax(dim=-1) != logits.shape[-1] - 1).sum(dim=1)
        assert_close((boxes - counted).abs().mean(), toy.expected[f"loss.cardinality_error{suffix}"])
    queries = [toy.expected[f"matched.{image}.query"] for image in range(len(toy.images))]
    found = torch.cat([step.output.objectness[-1, image, query] for image, query in enumerate(queries)])
    wrong = (found.unsqueeze(-1).argmax(dim=-1) != 0).float().mean() * 100
    assert float(wrong) == float(toy.expected["loss.class_error"])


def test_gradients(toy: Toy, step: Step) -> None:
    prefix = "grad."
    published = {name.removeprefix(prefix): value for name, value in toy.expected.items() if name.startswith(prefix)}
    expected = published_localizer_state(published)
    assert len(expected) == len(published) == 6
    parameters = dict(step.detector.localizer.named_parameters())
    for name, value in expected.items():
        gradient = parameters[name].grad
        assert gradient is not None, name
        assert_close(gradient, value)


def test_everything_that_learns_has_a_gradient(step: Step) -> None:
    without = [name for name, value in step.detector.localizer.named_parameters() if value.grad is None]
    assert without == []
    assert [name for name, value in step.detector.named_parameters() if value.grad is not None] == [
        f"localizer.{name}" for name, _ in step.detector.localizer.named_parameters()
    ]


def test_the_rest_stays_bit_identical(toy: Toy, step: Step) -> None:
    # On a copy: the gradients of the step are compared by other tests.
    detector = detector_from_published(toy.state_dict)
    for parameter, source in zip(detector.parameters(), step.detector.parameters(), strict=True):
        parameter.requires_grad_(source.requires_grad)
        parameter.grad = None if source.grad is None else source.grad.clone()
    torch.optim.AdamW(detector.parameters(), lr=1e-2, weight_decay=0.1).step()
    detector.train()
    detector.encode(toy.batch)
    assert all(torch.equal(value, step.frozen_before[name]) for name, value in frozen_part(detector))
    start = step.detector.localizer.state_dict()
    moved = [name for name, value in detector.localizer.state_dict().items() if not torch.equal(value, start[name])]
    assert set(moved) == set(start)


def test_no_expected_number_is_left_out(toy: Toy) -> None:
    prefixes = tuple(prefix for _, names in COMPARED for prefix in names)
    assert [name for name in toy.expected if not name.startswith(prefixes)] == []
