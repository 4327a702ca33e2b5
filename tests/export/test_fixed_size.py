import pytest
import torch

from cora.export.fixed_size import FixedSizePreprocessor
from cora.images import PreprocessConfig, Preprocessor
from tests.export.conftest import picture

CONFIG = PreprocessConfig(short_side=160, long_side=224)


def test_what_fits_is_only_padded() -> None:
    fixed = FixedSizePreprocessor(config=CONFIG, size_hw=(224, 256))([picture(120, 150)])
    plain = Preprocessor.from_config(CONFIG)([picture(120, 150)])
    height, width = plain.sizes[0]
    assert fixed.pixels.shape == (1, 3, 224, 256)
    assert fixed.sizes == plain.sizes
    assert fixed.original_sizes == ((120, 150),)
    assert torch.equal(fixed.pixels[..., :height, :width], plain.pixels)
    assert not fixed.pixels[..., height:, :].any()
    assert int((~fixed.mask).sum()) == height * width


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (64, 6400), (6400, 64), (1, 1)])
def test_everything_is_made_to_fit(height: int, width: int) -> None:
    preprocessor = FixedSizePreprocessor(config=CONFIG, size_hw=(128, 192))
    new_height, new_width = preprocessor.resized_size(height, width)
    assert new_height <= 128
    assert new_width <= 192
    assert min(new_height, new_width) >= 32
    if max(height, width) <= 400:  # thin ones are widened
        assert new_width / new_height == pytest.approx(width / height, rel=0.02)
    assert preprocessor([picture(height, width)]).pixels.shape == (1, 3, 128, 192)


def test_pictures_that_were_not_resized_are_refused() -> None:
    with pytest.raises(ValueError, match="expected images of at most"):
        FixedSizePreprocessor(config=CONFIG, size_hw=(128, 192)).collate([picture(200, 100)])
