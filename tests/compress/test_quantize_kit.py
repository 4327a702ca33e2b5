"""nano in INT8 on images of the kit: its boxes stay those of the float model, and the measure can tell when not."""

from pathlib import Path

import pytest
from PIL import ImageOps

import cora
from cora.compress.quantize import calibration_feeds, export_folded
from cora.compress.quantize_check import Contender, Pictures, compare, contender, reasons_to_refuse
from cora.compress.quantize_float import FloatWeights
from cora.compress.quantize_onnx import quantize_onnx_file
from cora.data.class_split import read_class_split
from cora.data.read import read_dataset
from cora.evaluation.base_novel import class_groups
from cora.evaluation.predict import ground_truth
from cora.export import ExportSettings, load_exported
from cora.predictor import Predictor

pytestmark = pytest.mark.integration

PHOTOS, CALIBRATION = 6, 4
#: As `cora quantize` has them, but on six images one box of a rare class moves AP50 by two points.
MAX_LOSS, MIN_AGREEMENT = 4.0, 50.0


@pytest.mark.needs_shared
def test_a_quantized_model_passes_and_a_broken_one_does_not(shared: Path, tmp_path: Path) -> None:
    kit = shared / "kit" / "coco_ovd_mini"
    split = read_class_split(kit / "class_split.json")
    dataset = read_dataset(images=kit / "val", annotations=kit / "val.json", class_names=split.all)
    pictures = Pictures(
        read=lambda place: (dataset[place][0], dataset[place][2]),
        count=PHOTOS,
        classes=dataset.class_names,
        truth=ground_truth(dataset, indices=range(PHOTOS)),
        groups=class_groups(split.base, split.novel),
    )
    detector = cora.load("nano").detector
    # One size, since the exporter takes a minute to reason about open ones.
    settings = ExportSettings(size_hw=(384, 576), batch=1)
    plain = export_folded(detector, tmp_path / "float.onnx", model="nano", settings=settings)
    original = load_exported(plain, load_text_model=lambda _: detector)
    photos = sorted((kit / "train").glob("*.jpg"))[:CALIBRATION]
    vocabulary = Predictor(detector).vocabulary(pictures.classes, distractors=())
    feeds = calibration_feeds(original.preprocessor, vocabulary, photos)
    target = tmp_path / "int8.onnx"
    quantize_onnx_file(plain, target, feeds=feeds, keep=FloatWeights(detector))
    quantized = load_exported(target, load_text_model=lambda _: detector)
    models = [contender(name, model, (), pictures.classes) for name, model in (("float", original), ("8", quantized))]
    broken = Contender(
        name="of mirrored images", predict=lambda image: models[1].predict(ImageOps.mirror(image)), files=()
    )
    plainly, int8, mirrored = compare([*models, broken], pictures)
    assert plainly.ap50["all"].value > 0  # type: ignore[operator]
    assert reasons_to_refuse(plainly, int8, max_loss=MAX_LOSS, min_agreement=MIN_AGREEMENT) == []
    assert int8.agreement < 100  # type: ignore[operator]  # it is another model
    assert reasons_to_refuse(plainly, mirrored, max_loss=MAX_LOSS, min_agreement=MIN_AGREEMENT) != []
