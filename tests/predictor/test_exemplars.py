"""Classes by images: embeddings, averages, their place in a vocabulary, bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cora.detector import Detector
from cora.errors import ImageError, VocabularyError
from cora.predictor import Predictor
from cora.predictor.exemplars import (
    IMAGE_SHARE,
    embed_exemplars,
    embed_region,
    to_name_space,
    with_exemplars,
)
from cora.regions import Vocabulary
from cora.regions.everyday import EVERYDAY_NAMES


def picture(seed: int = 0, size: tuple[int, int] = (100, 80)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (10, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


def test_a_region_is_what_exact_pooling_gives_for_its_box(detector: Detector) -> None:
    c3, _ = detector.encode(detector.preprocessor([picture()]))
    expected = detector.embed_exact(c3, torch.tensor([[[0.5, 0.5, 0.5, 0.5]]]))[0, 0]
    torch.testing.assert_close(embed_region(detector, picture(), (25, 20, 75, 60)), expected.detach())
    whole = detector.embed_exact(c3, torch.tensor([[[0.5, 0.5, 1.0, 1.0]]]))[0, 0]
    torch.testing.assert_close(embed_region(detector, picture()), whole.detach())


def test_every_kind_of_picture_is_the_same(detector: Detector, tmp_path: Path) -> None:
    picture().save(tmp_path / "logo.png")
    array = np.asarray(picture())
    kinds = [tmp_path / "logo.png", str(tmp_path / "logo.png"), picture(), array]
    alone = [embed_exemplars(detector, {"logo": [kind]})["logo"] for kind in kinds]
    boxed = [embed_exemplars(detector, {"logo": [(kind, (0, 0, 100, 80))]})["logo"] for kind in kinds]
    for other in alone + boxed:
        torch.testing.assert_close(other, alone[0])


def test_several_are_averaged_on_the_sphere_whatever_their_order(detector: Detector) -> None:
    pictures = [picture(seed) for seed in range(3)]
    single = torch.stack([embed_region(detector, one) for one in pictures])
    both = embed_exemplars(detector, {"logo": pictures, "other": pictures[:1]})
    torch.testing.assert_close(both["logo"], F.normalize(single.mean(dim=0), dim=0))
    torch.testing.assert_close(both["other"], single[0])
    torch.testing.assert_close(embed_exemplars(detector, {"logo": pictures[::-1]})["logo"], both["logo"])
    torch.testing.assert_close(both["logo"].norm(), torch.tensor(1.0))


def test_in_words_is_a_mean_of_words_nearest_first() -> None:
    words = torch.eye(4)
    said = to_name_space(F.normalize(torch.tensor([3.0, 1.0, 0.0, 0.0]), dim=0), words, scale=10)
    torch.testing.assert_close(said.norm(), torch.tensor(1.0))
    assert (said[:-1] >= said[1:]).all()
    torch.testing.assert_close(to_name_space(words[2], words, scale=1000), words[2])
    even = to_name_space(words[2], words, scale=0)
    torch.testing.assert_close(even, torch.full((4,), 0.5))


def test_words_pictures_and_both(detector: Detector) -> None:
    vocabulary = Predictor(detector).vocabulary(["cat", "cup"], exemplars={"My Logo": [picture()], "CUP": [picture(1)]})
    assert vocabulary.names == ("cat", "cup", "My Logo")
    encode = detector.vocabulary_encoder.encode
    words = encode(["cat", "cup"]).embeddings
    everyday, scale = encode(EVERYDAY_NAMES).embeddings, detector.config.tower.logit_scale
    logo = to_name_space(embed_region(detector, picture()), everyday, scale=scale)
    cup = to_name_space(embed_region(detector, picture(1)), everyday, scale=scale)
    torch.testing.assert_close(vocabulary.embeddings[0], words[0])
    mixed = F.normalize((1 - IMAGE_SHARE) * words[1] + IMAGE_SHARE * cup, dim=0)
    torch.testing.assert_close(vocabulary.embeddings[1], mixed)
    torch.testing.assert_close(vocabulary.embeddings[2], logo)
    torch.testing.assert_close(vocabulary.embeddings.norm(dim=-1), torch.ones(3))


def test_pictures_alone_and_words_alone(detector: Detector) -> None:
    assert Predictor(detector).vocabulary([], exemplars={"logo": [picture()]}).names == ("logo",)
    encoded = detector.vocabulary_encoder.encode(["cat"])
    torch.testing.assert_close(Predictor(detector).vocabulary(encoded, exemplars={}).embeddings, encoded.embeddings)
    torch.testing.assert_close(Predictor(detector).vocabulary(["cat"], exemplars={}).embeddings, encoded.embeddings)
    with pytest.raises(VocabularyError, match="at least one, got an empty list"):
        Predictor(detector).vocabulary([], exemplars={})


def test_an_encoded_vocabulary_keeps_weights_and_distractors(detector: Detector) -> None:
    encoder = detector.vocabulary_encoder
    before = encoder.encode(["cat", "cup"]).weighted({"cup": 3}).beside(encoder, ["tree"])
    after = Predictor(detector).vocabulary(before, exemplars={"logo": [picture()]})
    assert after.weights is not None
    assert after.weights.tolist() == [1, 3, 1]
    torch.testing.assert_close(after.distractors, before.distractors)
    torch.testing.assert_close(after.embeddings[:2], before.embeddings)


def test_predict_finds_classes_by_pictures(detector: Detector) -> None:
    found = Predictor(detector).predict(
        picture(), ["cat"], exemplars={"logo": [(picture(), (10, 10, 60, 60))]}, score=0
    )
    assert found.class_names == ("cat", "logo")
    assert set(found.names) == {"cat", "logo"}
    with torch.inference_mode():  # kept vocabularies may be used in training later
        vocabulary = Predictor(detector).vocabulary(["cat"], exemplars={"logo": [picture()]})
    assert not vocabulary.embeddings.is_inference()


def test_frozen_parts_and_mode_are_left_alone(detector: Detector) -> None:
    detector.train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    assert not embed_region(detector, picture()).requires_grad
    assert detector.training
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 120, 80), "within an image of 100 x 80 pixels, at least 1 apart, got 0, 0, 120, 80"),
        ((-5, 0, 50, 50), "got -5, 0, 50, 50"),
        ((200, 200, 300, 300), "got 200, 200, 300, 300"),
        ((50, 50, 50, 60), "at least 1 apart"),
        ((60, 50, 50, 60), "at least 1 apart"),
        ((0, 0, 50), "expected four numbers"),
        ((0, 0, float("nan"), 50), "expected four numbers"),
    ],
)
def test_boxes_outside_the_picture_are_refused(detector: Detector, box: tuple[float, ...], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        embed_region(detector, picture(), box)


def test_a_box_may_pass_the_border_by_a_rounding(detector: Detector) -> None:
    expected = embed_region(detector, picture())
    torch.testing.assert_close(embed_region(detector, picture(), (-0.4, 0, 100.6, 80)), expected)


def test_the_file_of_a_wrong_box_is_named(detector: Detector, tmp_path: Path) -> None:
    picture().save(tmp_path / "logo.png")
    with pytest.raises(ImageError, match=r"logo\.png"):
        embed_exemplars(detector, {"logo": [(tmp_path / "logo.png", (0, 0, 500, 500))]})


def test_bad_exemplars_are_refused(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="at least one image, got an empty list"):
        embed_exemplars(detector, {"logo": []})
    with pytest.raises(VocabularyError, match="expected a list of images, got str"):
        embed_exemplars(detector, {"logo": "logo.png"})  # type: ignore[dict-item]
    with pytest.raises(VocabularyError, match="blank"):
        embed_exemplars(detector, {" ": [picture()]})
    with pytest.raises(VocabularyError, match="twice"):
        embed_exemplars(detector, {"logo": [picture()], "Logo": [picture()]})
    with pytest.raises(ImageError, match="got no file"):
        embed_exemplars(detector, {"logo": [tmp_path / "none.png"]})
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match="no image"):
        embed_exemplars(detector, {"logo": [tmp_path / "text.png"]})


def test_embeddings_of_another_width_are_refused() -> None:
    with pytest.raises(VocabularyError, match="width 4, got 3"):
        with_exemplars(Vocabulary(("cat",), torch.eye(4)[:1]), {"logo": torch.ones(3)})
