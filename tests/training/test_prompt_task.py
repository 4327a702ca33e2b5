"""Region prompting: only the prompt learns, from images or from cached maps, and classes can be weighed."""

from __future__ import annotations

import pytest
import torch

from cora.detector import Detector
from cora.regions import Vocabulary
from cora.structures import ImageBatch, Targets
from cora.training.prompt_task import PromptTask

CLASSES = 5  # of the fixture `vocabulary`


def photos() -> tuple[ImageBatch, tuple[Targets, ...]]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 96, 96, generator=generator)
    mask = torch.zeros(2, 96, 96, dtype=torch.bool)
    boxes = torch.tensor([[0.3, 0.3, 0.4, 0.5], [0.6, 0.6, 0.5, 0.4], [0.5, 0.5, 0.9, 0.9]])
    targets = (
        Targets(boxes_cxcywh=boxes, classes=torch.tensor([0, 1, 2])),
        Targets(boxes_cxcywh=boxes[:2], classes=torch.tensor([1, 1])),
    )
    return ImageBatch(pixels=pixels, mask=mask, sizes=((96, 96),) * 2, original_sizes=((96, 96),) * 2), targets


def test_only_the_prompt_changes_and_the_loss_falls(detector: Detector, vocabulary: Vocabulary) -> None:
    task = PromptTask(detector=detector, vocabulary=vocabulary).train()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainable = [parameter for parameter in task.parameters() if parameter.requires_grad]
    assert [id(parameter) for parameter in trainable] == [id(detector.prompt.offset)]
    optimiser = torch.optim.AdamW(trainable, lr=3e-2)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        losses.append(task(photos())["loss"])
        losses[-1].backward()
        optimiser.step()
    changed = [name for name, value in task.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["detector.prompt.offset"]
    assert losses[-1] < losses[0]


def test_cached_maps_give_the_losses_of_the_photos(detector: Detector, vocabulary: Vocabulary) -> None:
    task = PromptTask(detector=detector, vocabulary=vocabulary)
    images, targets = photos()
    c3, c4 = detector.encode(images)
    from_photos, from_maps = task((images, targets)), task((c3, c4, targets))
    torch.testing.assert_close(from_photos["loss"], from_maps["loss"])
    assert 0 <= float(from_maps["accuracy"]) <= 1


def test_weights_choose_which_classes_count(detector: Detector, vocabulary: Vocabulary) -> None:
    images, targets = photos()
    only_class_0 = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    weighed = PromptTask(detector=detector, vocabulary=vocabulary, loss_weights=only_class_0)((images, targets))
    box = Targets(boxes_cxcywh=targets[0].boxes_cxcywh[:1], classes=targets[0].classes[:1])
    nothing = Targets(boxes_cxcywh=torch.zeros(0, 4), classes=torch.zeros(0, dtype=torch.int64))
    alone = PromptTask(detector=detector, vocabulary=vocabulary)((images, (box, nothing)))
    torch.testing.assert_close(weighed["loss"], alone["loss"])


def test_equal_weight_sampling_draws_rare_classes_as_often_as_frequent_ones(
    detector: Detector, vocabulary: Vocabulary
) -> None:
    torch.manual_seed(0)
    counts = torch.tensor([1, 99, 1, 1, 1])
    task = PromptTask(detector=detector, vocabulary=vocabulary, class_counts=counts, max_boxes=1)
    many = Targets(boxes_cxcywh=torch.full((100, 4), 0.5), classes=torch.tensor([0] + [1] * 99))
    drawn = torch.cat([task._sample((many,))[1] for _ in range(400)])
    assert len(drawn) == 400
    assert 0.4 < float((drawn == 0).float().mean()) < 0.6


def test_a_step_can_tell_fewer_classes_apart(
    detector: Detector, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[torch.Tensor] = []
    logits = detector.classifier.logits

    def recorded(regions: torch.Tensor, class_embeddings: torch.Tensor) -> torch.Tensor:
        compared.append(class_embeddings)
        return logits(regions, class_embeddings)

    monkeypatch.setattr(detector.classifier, "logits", recorded)
    task = PromptTask(detector=detector, vocabulary=vocabulary, classes_per_step=3)
    assert torch.isfinite(task(photos())["loss"])
    (embeddings,) = compared
    present = torch.cat([one.classes for one in photos()[1]]).unique()
    assert embeddings.shape == (3, 16)
    assert torch.equal(embeddings[: len(present)], vocabulary.embeddings[present])


def test_a_batch_without_boxes_costs_nothing(detector: Detector, vocabulary: Vocabulary) -> None:
    nothing = Targets(boxes_cxcywh=torch.zeros(0, 4), classes=torch.zeros(0, dtype=torch.int64))
    loss = PromptTask(detector=detector, vocabulary=vocabulary)((photos()[0], (nothing, nothing)))["loss"]
    assert float(loss) == 0
    assert not loss.requires_grad


def test_impossible_settings_are_refused(detector: Detector, vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match=r"loss_weights: expected shape \[5\], got \[3\]"):
        PromptTask(detector=detector, vocabulary=vocabulary, loss_weights=torch.ones(3))
    with pytest.raises(ValueError, match="expected max_boxes with it"):
        PromptTask(detector=detector, vocabulary=vocabulary, class_counts=torch.ones(5))
