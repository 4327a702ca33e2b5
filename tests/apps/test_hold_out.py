"""`cora evaluate --run`: the hold-out of a fine-tuning run stands for images, annotations and model."""

import json
from pathlib import Path

import pytest

from cora.apps.cli import main
from cora.apps.command import Parser
from cora.apps.evaluate import EvaluateOptions, take_hold_out
from cora.apps.kinds import FINETUNE_RUN
from cora.apps.options import add_options, read_options
from cora.data.coco import CocoDataset
from cora.data.hold_out import HELD_OUT, write_hold_out

TRUTH = {
    "images": [{"id": 1, "file_name": "white.jpg", "width": 80, "height": 60}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}],
}


@pytest.fixture
def run(folder: Path) -> Path:
    Path("boxes.json").write_text(json.dumps(TRUTH))
    run = Path("run")
    run.mkdir()
    file = write_hold_out(run, CocoDataset(annotations=Path("boxes.json"), images=Path("photos")))
    assert file == run / HELD_OUT
    return run


def taken(*words: str) -> tuple[str, str, str]:
    read = add_options(Parser(), EvaluateOptions).parse_args(words)
    images, annotations, model = take_hold_out(read_options(EvaluateOptions, read))
    return str(images), str(annotations), str(model)


def test_a_run_stands_for_images_annotations_and_model(run: Path, tmp_path: Path) -> None:
    photos = str((tmp_path / "photos").resolve())
    assert taken("--run", "run") == (photos, "run/held_out.json", "run/model.safetensors")
    assert taken("--run", "run", "--model", "other.safetensors")[2] == "other.safetensors"
    again = CocoDataset(annotations=run / HELD_OUT, images=Path(photos))
    assert again.class_names == ("cat", "dog")
    assert (
        again.to_coco()["annotations"]
        == CocoDataset(annotations=Path("boxes.json"), images=Path("photos")).to_coco()["annotations"]
    )
    assert FINETUNE_RUN.files[HELD_OUT].fits(run / HELD_OUT)
    assert not FINETUNE_RUN.files[HELD_OUT].fits(Path("boxes.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: --annotations, or --run of a fine-tuning"),
        (["--run", "photos"], "--run: expected the folder of a finished 'cora finetune' that held images out, got no"),
        (["--run", "run", "--images", "photos"], "expected --run alone, which has its own images, got --images"),
        (["--run", "run", "--annotations", "boxes.json"], "got --annotations beside it"),
    ],
)
def test_what_is_no_hold_out(
    run: Path, loaded: list[str], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["evaluate", *words]) == 2
    assert message in capsys.readouterr().err
    assert not loaded
