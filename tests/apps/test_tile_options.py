"""--tiles, --tile-size, --tile-overlap and --short-side: read, checked, passed on."""

import json
from pathlib import Path
from typing import Any

import pytest

import cora
from cora.apps.cli import main
from cora.errors import CoraError
from cora.predictor import Predictor, Tiles
from cora.predictor.adapt import set_short_side
from tests.evaluation.coco_data import ground_truth, write_folder

DETECT = ("detect", "photos/white.jpg", "--classes", "cat")


@pytest.mark.usefixtures("loaded", "folder")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], None),
        (["--tiles", "2x3"], Tiles(count=(2, 3))),
        (["--tiles", "1X4", "--tile-overlap", "0.5"], Tiles(count=(1, 4), overlap=0.5)),
        (["--tile-size", "512", "--tile-overlap", "0"], Tiles(size_px=512, overlap=0)),
    ],
)
def test_tiles_are_passed_on(options: list[str], expected: Tiles | None) -> None:
    assert main([*DETECT, *options]) == 0
    assert cora.load("nano").options["tiles"] == expected  # type: ignore[attr-defined]


@pytest.mark.usefixtures("loaded", "folder")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tiles", "2"], "expected rows and columns up to 32x32, such as 2x3, got '2'"),
        (["--tiles", "0x2"], "got '0x2'"),
        (["--tiles", "99x99"], "got '99x99'"),
        (["--tiles", "2x2", "--tile-size", "64"], "not allowed with argument"),
        (["--tile-size", "16"], "expected 32 to 65536 pixels, got '16'"),
        (["--tiles", "2x2", "--tile-overlap", "0.95"], "expected a share below 0.9, got '0.95'"),
        (["--tile-overlap", "0.5"], "expected --tiles or --tile-size beside --tile-overlap 0.5, got neither"),
        (["--short-side", "9"], "expected 32 to 65536 pixels, got '9'"),
        (["--short-side", "10000000"], "expected 32 to 65536 pixels, got '10000000'"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written(
    options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    try:
        code = main([*DETECT, *options])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_short_side_keeps_the_proportion_of_the_limits() -> None:
    detector = cora.load("nano")
    before = detector.preprocessor.config
    set_short_side(detector, None)
    assert detector.preprocessor.config is before
    set_short_side(detector, 2 * before.short_side)
    assert detector.preprocessor.resized_size(10_000, 10_000) == (2 * before.short_side,) * 2
    assert detector.preprocessor.resized_size(100, 1000)[1] == 2 * before.long_side


@pytest.mark.usefixtures("folder")
def test_short_side_of_an_exported_model(loaded: list[str]) -> None:
    with pytest.raises(CoraError, match="--short-side 640: expected a model by name or a checkpoint, got an exported"):
        set_short_side(cora.load("nano"), 640)


@pytest.mark.slow
def test_detect_with_tiles_is_predict_with_tiles(tmp_path: Path) -> None:
    photo = Path(__file__).resolve().parents[2] / "examples" / "coffee.jpg"
    options = ["--tiles", "2x2", "--short-side", "160", "--score", "0.005"]
    results = ["--output", str(tmp_path), "--json", str(tmp_path / "boxes.json")]
    assert main(["detect", str(photo), "--classes", "cup, spoon", *options, *results]) == 0
    found = json.loads((tmp_path / "boxes.json").read_text())["annotations"]
    detector = cora.load("nano")
    set_short_side(detector, 160)
    tiled = detector.predict(photo, ["cup", "spoon"], score=0.005, tiles=Tiles(count=(2, 2)))
    plain = detector.predict(photo, ["cup", "spoon"], score=0.005)
    assert len(tiled) > 0
    assert [entry["score"] for entry in found] == pytest.approx(tiled.scores.tolist(), abs=1e-4)
    assert tiled.boxes_xyxy_px.tolist() != plain.boxes_xyxy_px.tolist()


@pytest.fixture
def annotated(tmp_path: Path) -> list[str]:
    images, annotations = write_folder(tmp_path, ground_truth(images=2, seed=1))
    return ["--images", str(images), "--annotations", str(annotations), "--resamples", "2", "--device", "cpu"]


@pytest.mark.integration
def test_evaluate_with_tiles_says_so(annotated: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports, given, predict = {}, [], Predictor.predict

    def seen(*args: Any, **options: Any) -> Any:
        given.append(options["tiles"])
        return predict(*args, **options)

    monkeypatch.setattr(Predictor, "predict", seen)
    for name, options in {"plain": [], "tiled": ["--tiles", "1x2", "--tile-overlap", "0.4"]}.items():
        file = tmp_path / f"{name}.json"
        assert main(["evaluate", *annotated, "--short-side", "64", *options, "--json", str(file)]) == 0
        reports[name] = json.loads(file.read_text())
    assert reports["plain"]["tiles"] is None
    assert reports["plain"]["short_side"] == reports["tiled"]["short_side"] == 64
    assert reports["tiled"]["tiles"]["count"] == [1, 2]
    assert reports["tiled"]["tiles"]["overlap"] == 0.4
    assert given == [None] * 2 + [Tiles(count=(1, 2), overlap=0.4)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--oracles", "--tiles", "2x2"], "expected --oracles without tiles"),
        (["--predictions", "boxes.json", "--tile-size", "99"], "got --tile-size, which need a model"),
        (["--tile-overlap", "0.3"], "expected --tiles or --tile-size beside --tile-overlap 0.3"),
    ],
)
def test_evaluate_refuses_what_does_not_go_together(
    annotated: list[str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *annotated, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
