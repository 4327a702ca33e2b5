"""`cora evaluate` and `cora region-accuracy` from the command line, with a tiny random model."""

import json
import subprocess
from functools import partial

import pytest
import torch
from PIL import Image

import cora
from cora.apps.cli import main
from cora.data.coco import CocoDataset
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.oracles import AS_IT_IS, ORACLES
from cora.evaluation.predict_processes import DatasetPredictor, Request
from cora.evaluation.setting import fingerprint
from cora.evaluation.tide import KINDS
from tests import toys
from tests.detector.conftest import tiny_detector
from tests.evaluation.coco_data import CLASSES, ground_truth, noisy_results, write_folder, write_noise
from tests.evaluation.test_report import Page


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = toys.toy_config(tower={"context_length": 16, "vocab_size": 1000}, localizer={"num_queries": 9})
    return toys.toy_detector(config, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def loaded(monkeypatch, model):
    monkeypatch.setattr(cora, "load", lambda name: cora.Predictor(model))
    return model


@pytest.fixture
def arguments(tmp_path):
    images, annotations = write_folder(tmp_path, ground_truth(images=4, seed=1))
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"base": ["cat", "dog"], "novel": ["bus"]}), encoding="utf-8")
    return [
        "--images",
        str(images),
        "--annotations",
        str(annotations),
        "--split",
        str(split),
        "--resamples",
        "20",
    ]


@pytest.mark.slow
def test_evaluate_with_synonyms_writes_everything(arguments, tmp_path, capsys, loaded):
    out = tmp_path / "report.json"
    weights = tmp_path / "weights.json"
    weights.write_text('{"bus": 8}', encoding="utf-8")
    options = ["--rename", "coco", "--class-weights", str(weights), "--device", "cpu", "--json", str(out)]
    assert main(["evaluate", *arguments, *options]) == 0
    printed = capsys.readouterr().out
    for word in ("novel", "base", "all", "AP50", "renamed classes only"):
        assert word in printed
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report["groups"]) == {"novel", "base", "all"}
    assert report["class_weights"] == {"bus": 8.0}
    assert report["model"]["fingerprint"] == fingerprint(loaded)
    assert report["vocabulary"] == list(CLASSES)
    assert report["images"] == 4
    assert set(report["weighted"]["groups"]) == {"novel", "base", "all"}
    assert "with a weight in pre-matching for 1 class" in printed
    assert report["synonyms"]["renamed"] == {"cat": "kitten", "dog": "puppy", "bus": "motorcoach"}


@pytest.mark.slow
def test_weights_of_a_group_stand_beside_the_numbers_without(arguments, tmp_path, capsys, loaded):
    out, folder = tmp_path / "report.json", tmp_path / "report"
    options = ["--class-weights", "base=0.5", "--report", str(folder), "--device", "cpu", "--json", str(out)]
    assert main(["evaluate", *arguments, *options]) == 0
    assert "with a weight in pre-matching for 2 classes" in capsys.readouterr().out
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["class_weights"] == {"cat": 0.5, "dog": 0.5}
    assert set(report["weighted"]["groups"]) == set(report["groups"])
    said = Page((folder / "report.html").read_text(encoding="utf-8")).text
    assert said.index("Average precision") < said.index("With class weights")
    assert "cat 0.5, dog 0.5" in said


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("rare=8", "GROUP=WEIGHT for one of the groups novel, base, all, or a file, got rare=8"),
        ("novel=much", "expected a weight above 0, got 'much'"),
        ("novel=-8", "expected a weight above 0, got '-8'"),
        ("none.json", "cannot read none.json"),
    ],
)
def test_bad_class_weights_give_one_line(arguments, capsys, loaded, weights, message):
    assert main(["evaluate", *arguments, "--class-weights", weights]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_region_accuracy_writes_everything(arguments, tmp_path, capsys, loaded):
    out = tmp_path / "report.json"
    assert main(["region-accuracy", *arguments, "--limit", "3", "--device", "cpu", "--json", str(out)]) == 0
    assert "no prompt" in capsys.readouterr().out
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["images"] == 3
    assert report["accuracy"]["prompt"]["all"]["all"]["boxes"] == report["boxes"]
    assert set(report["classes"]) == set(CLASSES)
    assert set(report["accuracy"]) == {"prompt", "no prompt"}


def test_crops_are_compared_where_asked_for(arguments, tmp_path, capsys, loaded):
    out = tmp_path / "report.json"
    options = ["--limit", "3", "--device", "cpu", "--crops", "--json", str(out)]
    assert main(["region-accuracy", *arguments, *options]) == 0
    assert "all, crops" in capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))["accuracy"]
    assert found["crops"]["all"]["all"]["boxes"] == found["prompt"]["all"]["all"]["boxes"] > 0
    assert 0 <= found["crops"]["all"]["all"]["top1"]["value"] <= 1


@pytest.mark.parametrize("command", ["evaluate", "region-accuracy"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--annotations", "none.json", "no annotation file"),
        ("--images", "nowhere", "no folder at nowhere"),
        ("--split", "none.json", "no class split"),
        ("--split", '{"base": ["cat", "zebra", "yak"], "novel": []}', "lacks 2 of the 3 classes"),
        ("--device", "abacus", "expected a device"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(arguments, tmp_path, capsys, command, option, value, message):
    if value.startswith("{"):
        path = tmp_path / "bad.json"
        path.write_text(value, encoding="utf-8")
        value = str(path)
    assert main([command, *arguments, option, value, "--json", str(tmp_path / "report.json")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("value", ["0", "x", "-3"])
def test_a_bad_limit_is_refused(arguments, capsys, value):
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *arguments, f"--limit={value}"])
    assert "expected a whole number of 1 or more" in capsys.readouterr().err


def test_fingerprint_depends_on_the_weights():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(one) != fingerprint(other)


def test_oracles_and_report_of_a_model(arguments, tmp_path, capsys, loaded):
    out, folder = tmp_path / "report.json", tmp_path / "report"
    options = ["--oracles", "--report", str(folder), "--device", "cpu", "--json", str(out)]
    assert main(["evaluate", *arguments, *options]) == 0
    printed = capsys.readouterr().out
    for word in ("true classes at pre-matching", "best box of every object", "no localization errors", "report.html"):
        assert word in printed
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report["oracles"]) == set(ORACLES)
    for shares in report["errors"].values():
        assert set(shares["gains"]) == set(KINDS)
    html = (folder / "report.html").read_text(encoding="utf-8")
    read = Page(html)
    said = "".join(read.text)
    for title in ("Average precision", "Recall ceiling", "Kinds of errors", "The worst classes", "Missed"):
        assert title in said
    assert read.references
    assert all(reference.startswith("data:image/jpeg;base64,") for reference in read.references)
    assert "http" not in html


def study_report(path):
    """What `cora study` writes, of three boxes."""
    estimate = {"value": 0.4, "low": 0.3, "high": 0.5}
    summary = {
        "boxes": 3,
        "mean_iou": estimate,
        "shares": {"0.3": estimate, "0.5": {**estimate, "value": 1 / 3}, "0.7": {**estimate, "value": 0.0}},
        "histogram": [0, 2, 1, 0],
        "sentence": "With the class given, boxes do not fit.",
    }
    content = {"groups": {group: {"study": summary, "one-size boxes": summary} for group in ("base", "all")}}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_the_study_goes_into_the_report(arguments, predictions, tmp_path):
    study, folder = study_report(tmp_path / "study.json"), tmp_path / "report"
    options = ["--predictions", str(predictions), "--report", str(folder), "--study", str(study)]
    assert main(["evaluate", *arguments, *options]) == 0
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "With the class given, boxes do not fit." in html
    assert html.count('aria-label="histogram"') == 1
    assert "33.3" in html


@pytest.mark.parametrize("content", ['{"groups": {}}', "[]", '{"groups": {"all": {"study": {"boxes": 0}}}}'])
def test_another_file_is_no_study(arguments, predictions, tmp_path, capsys, content):
    study = tmp_path / "study.json"
    study.write_text(content, encoding="utf-8")
    options = ["--predictions", str(predictions), "--study", str(study), "--report", str(tmp_path / "report")]
    assert main(["evaluate", *arguments, *options]) == 2
    assert "study.json" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
    assert main(["evaluate", *arguments, "--predictions", str(predictions), "--study", str(study)]) == 2
    assert "expected --report beside --study" in capsys.readouterr().err


@pytest.fixture
def predictions(tmp_path):
    """A results file for the ground truth of `arguments`."""
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(noisy_results(ground_truth(images=4, seed=1), seed=1)), encoding="utf-8")
    return path


def test_predictions_made_elsewhere_need_no_photos_and_no_model(arguments, predictions, tmp_path, monkeypatch):
    monkeypatch.setattr(cora, "load", lambda name: pytest.fail("no model is needed"))
    out, folder = tmp_path / "report.json", tmp_path / "report"
    without_photos = arguments[2:]
    options = ["--predictions", str(predictions), "--json", str(out), "--report", str(folder)]
    assert main(["evaluate", *without_photos, *options]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["model"] is None
    assert report["predictions"] == str(predictions)
    truth = ground_truth(images=4, seed=1)
    expected = evaluate_boxes(truth, noisy_results(truth, seed=1), classes=CLASSES)
    assert [c["ap"] for c in report["classes"]] == [score.ap for score in expected.scores]
    assert sum(report["errors"]["all"]["counts"].values()) > 0
    assert "img" not in Page((folder / "report.html").read_text(encoding="utf-8")).tags
    assert main(["evaluate", *arguments, "--limit", "2", *options]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["images"] == 2
    assert "img" in Page((folder / "report.html").read_text(encoding="utf-8")).tags


@pytest.mark.browser
def test_the_report_opens_in_a_browser(arguments, predictions, tmp_path):
    folder = tmp_path / "report"
    assert main(["evaluate", *arguments, "--predictions", str(predictions), "--report", str(folder)]) == 0
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    # Without a name server anything that the page fetched would fail, and be logged.
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]
    page = (folder / "report.html").as_uri()
    done = subprocess.run([*command, *offline, "--dump-dom", page], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<svg") == 2
    assert done.stdout.count("<img") >= 1
    assert "CONSOLE" not in done.stderr
    shot = tmp_path / "report.png"
    narrow = ["--window-size=500,900", "--hide-scrollbars", f"--screenshot={shot}", page]
    subprocess.run([*command, *offline, *narrow], capture_output=True, check=True, timeout=120)
    with Image.open(shot) as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--oracles", "--rename", "coco"], "got --rename, --oracles, which need a model"),
        (["--model", "nano", "--precision", "auto"], "got --model, --precision, which need a model"),
        (["--images", "nowhere"], "no folder at nowhere"),
        (["--predictions", "none.json"], "no COCO results file"),
    ],
)
def test_bad_options_with_predictions_give_one_line(arguments, predictions, capsys, options, message):
    assert main(["evaluate", *arguments[2:], "--predictions", str(predictions), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_bad_predictions_are_counted_and_nothing_is_written(arguments, tmp_path, capsys):
    path, out = tmp_path / "predictions.json", tmp_path / "report.json"
    bad = {"image_id": 999, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    off = {"image_id": 10, "category_id": 1, "bbox": [5000, 0, 5, 5], "score": 0.5}
    path.write_text(json.dumps([bad, bad, off]), encoding="utf-8")
    assert main(["evaluate", *arguments, "--predictions", str(path), "--json", str(out)]) == 2
    assert "2 unknown image ids (first: 999); 1 box off their image" in capsys.readouterr().err
    assert not out.exists()


def test_a_model_needs_photos(arguments, capsys):
    assert main(["evaluate", *arguments[2:]]) == 2
    assert "name it with --images" in capsys.readouterr().err


def _load(model, device):
    return cora.load(model, device=device)


@pytest.mark.integration
def test_several_processes_give_the_same_numbers(tmp_path):
    model = tmp_path / "tiny.safetensors"
    tiny_detector(tmp_path / "cache").save(model, dtype=torch.float32)
    images, annotations = write_noise(tmp_path, images=3)
    detector = cora.load(model)
    dataset = CocoDataset(annotations=annotations, images=images)
    options = {"detector": detector, "open_model": partial(_load, model), "dataset": dataset}
    options |= {"indices": range(3), "score": 0.001, "max_detections": 100}
    request = Request(classes=tuple(CLASSES), class_weights={"bus": 8.0})
    shown = []

    def track(items, title):
        for item in items:
            shown.append((item, title))
            yield item

    one = DatasetPredictor(**options).predict(request, "one", track)[AS_IT_IS]
    two = DatasetPredictor(**options, processes=2).predict(request, "two", track)[AS_IT_IS]
    assert len(two.results) == len(one.results) > 0
    for theirs, ours in zip(two.results, one.results, strict=True):
        # Other numbers of threads add up in another order.
        assert (theirs["image_id"], theirs["category_id"]) == (ours["image_id"], ours["category_id"])
        assert theirs["bbox"] == pytest.approx(ours["bbox"], abs=1e-3)
        assert theirs["score"] == pytest.approx(ours["score"], rel=1e-4)
    assert two.images == one.images == 3
    assert {title for _, title in shown} == {"one", "two"}
