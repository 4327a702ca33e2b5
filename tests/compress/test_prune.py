"""Pruning: nothing removed changes nothing, what is removed is counted, what is left is an ordinary model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import cora
from cora.apps.cli import main
from cora.compress.arch_sizes import Architecture, read_architecture
from cora.compress.prune import cut, prune, unit_sets
from cora.compress.prune_importance import rank_units
from cora.compress.prune_measure import agreement, costs, detect_all
from cora.detector import Detector
from cora.errors import ModelError
from cora.predictor import Predictor
from cora.regions import FastAlignment, Vocabulary
from tests.compress.toy_smaller import NAMES, toy_detector, toy_pictures


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return toy_detector(tmp_path / "cache")


@pytest.fixture
def vocabulary(detector: Detector) -> Vocabulary:
    return detector.vocabulary_encoder.encode(NAMES)


@pytest.fixture
def pictures() -> list[Image.Image]:
    return toy_pictures()


SMALLER = {
    "width": {"width": 4},
    "blocks": {"layers": (1, 1, 1, 1)},
    "encoder": {"enc_layers": 1},
    "decoder": {"dec_layers": 1},
    "ff": {"ff": 10},
    "heads": {"heads": 3},
    "anchors": {"anchors": 7},
}


def shrinking(detector: Detector, sizes: Architecture) -> list[str]:
    now = unit_sets(detector.config, Architecture.of(detector.config))
    return [name for name, count in unit_sets(detector.config, sizes).items() if count < now[name]]


def parameters(detector: Detector) -> int:
    return sum(p.numel() for p in detector.parameters())


def test_nothing_removed_is_the_same_bit_for_bit(
    detector: Detector, vocabulary: Vocabulary, pictures: list[Image.Image]
) -> None:
    same = prune(detector, Architecture.of(detector.config), {})
    assert same.config == detector.config
    state = same.state_dict()
    assert state.keys() == detector.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in detector.state_dict().items())
    for before, after in zip(
        detect_all(detector, pictures, vocabulary), detect_all(same, pictures, vocabulary), strict=True
    ):
        assert len(before) > 0
        assert torch.equal(before.boxes_xyxy_px, after.boxes_xyxy_px)
        assert torch.equal(before.scores, after.scores)


@pytest.mark.parametrize("change", SMALLER.values(), ids=SMALLER.keys())
@pytest.mark.slow
def test_every_kind_gives_a_model_file_that_detects(
    change: dict[str, object], detector: Detector, vocabulary: Vocabulary, pictures: list[Image.Image], tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    sizes = replace(Architecture.of(detector.config), **change)  # type: ignore[arg-type]
    importance = rank_units(detector, pictures, vocabulary, shrinking=shrinking(detector, sizes))
    smaller = prune(detector, sizes, importance)
    assert parameters(smaller) < parameters(detector)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    smaller.save(tmp_path / "small.safetensors", dtype=torch.float32)
    loaded = cora.load(tmp_path / "small.safetensors")
    loaded.precision = "float32"
    assert Architecture.of(loaded.config) == sizes
    found = loaded.predict(pictures[0], list(vocabulary.names), score=0.0001, distractors=())
    expected = Predictor(smaller).predict(pictures[0], vocabulary, score=0.0001, distractors=())
    assert len(found) > 0
    assert torch.equal(found.boxes_xyxy_px, expected.boxes_xyxy_px)


def test_removed_parameters_are_counted(detector: Detector) -> None:
    config, sizes = detector.config, Architecture.of(detector.config)
    now = {name: torch.arange(count) for name, count in unit_sets(config, sizes).items()}
    dim = config.localizer.dim

    def removed(changed: Architecture, **kept: torch.Tensor) -> int:
        return parameters(detector) - parameters(cut(detector, changed, {**now, **kept}))

    ffn = {name: torch.arange(10) for name in now if name.endswith(".ffn")}
    # Of every channel its input weights, its bias and its output weights, in each of five layers.
    assert removed(replace(sizes, ff=10), **ffn) == 5 * 14 * (2 * dim + 1)
    heads = {name: torch.arange(3) for name in now if name.endswith("attention")}
    # A head of 8 channels: rows of three to six projections, columns of the output.
    projections = 2 * 3 + 3 * 5 + (5 + 1) + 2 * 5
    assert removed(replace(sizes, heads=3), **heads) == 8 * (projections * (dim + 1) + (2 + 3 + 3) * dim)
    assert removed(replace(sizes, anchors=7), anchors=torch.arange(7)) == 13 * 4
    layer = sum(p.numel() for p in detector.localizer.encoder.layers[1].parameters())
    assert removed(replace(sizes, enc_layers=1), **{"encoder.layers": torch.tensor([0])}) == layer
    block = sum(p.numel() for p in detector.image_tower.net.layer2[1].parameters())
    assert removed(replace(sizes, layers=(1, 1, 2, 1)), layer2=torch.tensor([0])) == block
    decoder = detector.localizer.decoder
    gone = [decoder.layers[1], decoder.layers[2], decoder.box_heads[1], decoder.box_heads[2], decoder.position_scale]
    expected = sum(p.numel() for part in gone for p in part.parameters())  # type: ignore[union-attr]
    assert removed(replace(sizes, dec_layers=1), **{"decoder.layers": torch.tensor([0])}) == expected


def test_units_that_do_nothing_go_first_and_are_not_missed(
    detector: Detector, vocabulary: Vocabulary, pictures: list[Image.Image]
) -> None:
    """Silent feed-forward channels, tower channels and pool heads: the pruned model equals the whole one."""
    dead = torch.tensor([1, 4, 7, 10, 13, 16, 19, 22])
    block, pool = detector.image_tower.net.layer3[1], detector.image_tower.net.attnpool
    with torch.no_grad():
        for layer in detector.localizer.decoder.layers:
            for attention in (layer.self_attention, layer.cross_attention):
                attention.output.weight[:, 16:24] = 0  # type: ignore[union-attr, index, operator]
        detector.localizer.encoder.layers[0].attention.output.weight[:, :8] = 0  # type: ignore[union-attr, index]
        detector.localizer.encoder.layers[1].attention.output.weight[:, :8] = 0  # type: ignore[union-attr, index]
        for stack in (detector.localizer.encoder.layers, detector.localizer.decoder.layers):
            for layer in stack:
                layer.feed_forward.contract.weight[:, dead] = 0  # type: ignore[union-attr, index, operator]
        block.bn1.weight[:16] = block.bn1.bias[:16] = 0
        pool.c_proj.weight[:, 64:128] = 0
    sizes = replace(Architecture.of(detector.config), ff=16, heads=3)
    importance = rank_units(
        detector, pictures, vocabulary, shrinking=[*shrinking(detector, sizes), "layer3.1.first", "pool.heads"]
    )
    assert not importance["layer3.1.first"][:16].any()
    assert importance["layer3.1.first"][16:].any()
    assert importance["pool.heads"].argmin() == 1
    smaller = prune(detector, sizes, importance)
    kept = [index for index in range(24) if index not in dead.tolist()]
    layer = detector.localizer.encoder.layers[0].feed_forward.expand.weight  # type: ignore[union-attr]
    assert torch.equal(smaller.localizer.encoder.layers[0].feed_forward.expand.weight, layer[kept])  # type: ignore[union-attr, index]
    before, after = (detect_all(one, pictures, vocabulary) for one in (detector, smaller))
    for first, second in zip(before, after, strict=True):
        torch.testing.assert_close(second.boxes_xyxy_px, first.boxes_xyxy_px, atol=1e-3, rtol=1e-4)
    assert agreement(before, after).value > 0.999


def test_a_layer_that_does_nothing_is_least_important(
    detector: Detector, vocabulary: Vocabulary, pictures: list[Image.Image]
) -> None:
    with torch.no_grad():
        detector.image_tower.net.layer3[1].bn3.weight.zero_()
        detector.image_tower.net.layer3[1].bn3.bias.zero_()
    found = rank_units(detector, pictures, vocabulary, shrinking=["layer3", "encoder.layers", "decoder.layers"])
    assert found["layer3"][1] == pytest.approx(0, abs=1e-6)
    assert all(bool(found[name][0].isinf()) for name in found)
    assert (found["decoder.layers"][1:] > 0).all()


def test_anchors_that_find_most_stay(detector: Detector, vocabulary: Vocabulary, pictures: list[Image.Image]) -> None:
    sizes = replace(Architecture.of(detector.config), anchors=5)
    worth = rank_units(detector, pictures, vocabulary, shrinking=["anchors"])["anchors"]
    smaller = prune(detector, sizes, {"anchors": worth})
    best = worth.argsort(descending=True, stable=True)[:5].sort().values
    anchors, whole = smaller.localizer.learned_anchors, detector.localizer.learned_anchors
    assert anchors is not None
    assert whole is not None
    assert torch.equal(anchors.logits, whole.logits[best])
    assert float(worth.min()) >= 0


def test_proposed_anchors_are_counted_only(tmp_path: Path, vocabulary: Vocabulary, pictures: list[Image.Image]) -> None:
    detector = toy_detector(tmp_path, anchors="proposed")
    sizes = replace(Architecture.of(detector.config), anchors=5, ff=12)
    importance = rank_units(detector, pictures, vocabulary, shrinking=shrinking(detector, sizes))
    smaller = prune(detector, sizes, importance)
    assert smaller.localizer.proposals is not None
    assert smaller.localizer.proposals.count == 5
    assert len(Predictor(smaller).predict(pictures[0], vocabulary, score=0.0001, distractors=())) <= 5 * len(vocabulary)


def test_importance_does_not_depend_on_the_order_of_photos_of_one_seed(
    detector: Detector, vocabulary: Vocabulary, pictures: list[Image.Image]
) -> None:
    names = ["anchors", "encoder.layers.0.ffn"]
    first, again = (rank_units(detector, pictures, vocabulary, shrinking=names, seed=1) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in names)
    with pytest.raises(ModelError, match="at least one image"):
        rank_units(detector, [], vocabulary, shrinking=names)


def test_agreement(detector: Detector, vocabulary: Vocabulary, pictures: list[Image.Image], tmp_path: Path) -> None:
    other = toy_detector(tmp_path, seed=3)
    mine, others = detect_all(detector, pictures, vocabulary), detect_all(other, pictures, vocabulary)
    same = agreement(mine, mine)
    assert (same.value, same.low, same.high) == (1, 1, 1)
    between = agreement(mine, others)
    assert 0 <= between.low <= between.high < 1
    assert between.value == pytest.approx(agreement(others, mine).value, abs=0.05)
    nothing = [
        replace(one, boxes_xyxy_px=torch.zeros(0, 4), scores=torch.zeros(0), labels=one.labels[:0]) for one in mine
    ]
    assert agreement(nothing, nothing).value == 1
    assert agreement(mine, nothing).value == 0


@pytest.mark.slow
def test_costs_fall(detector: Detector, vocabulary: Vocabulary, pictures: list[Image.Image]) -> None:
    sizes = replace(Architecture.of(detector.config), ff=4, width=4, dec_layers=1)
    smaller = prune(detector, sizes, rank_units(detector, pictures, vocabulary, shrinking=shrinking(detector, sizes)))
    found = costs(
        {"whole": detector, "small": smaller}, pictures[0], {"whole": vocabulary, "small": vocabulary}, repeats=1
    )
    assert found["small"].tower < found["whole"].tower
    assert found["small"].localizer < found["whole"].localizer
    assert found["small"].gmac < found["whole"].gmac
    assert found["small"].text == found["whole"].text
    assert found["whole"].parameters == parameters(detector)
    assert found["whole"].milliseconds > 0


@pytest.mark.parametrize(("name", "value"), [("ff", 25), ("anchors", 21), ("width", 10), ("layers", (1, 3, 2, 1))])
def test_pruning_adds_nothing(name: str, value: object, detector: Detector) -> None:
    sizes = replace(Architecture.of(detector.config), **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="pruning only removes"):
        prune(detector, sizes, {})


def test_architecture_files(detector: Detector, tmp_path: Path) -> None:
    base, file = Architecture.of(detector.config), tmp_path / "sizes.json"
    file.write_text('{"ff": 12, "layers": [1, 1, 2, 1]}')
    assert read_architecture(file, base) == replace(base, ff=12, layers=(1, 1, 2, 1))
    assert Architecture.from_dict(base.to_dict(), base, source="") == base
    assert base.configure(detector.config) == detector.config
    for text, message in (
        ("[]", "expected an object"),
        ("{", "expected a JSON file"),
        ('{"depth": 3}', "got depth"),
        ('{"width": 5}', "even number"),
        ('{"ff": 0}', "at least 1"),
        ('{"ff": 1.5}', "whole number"),
        ('{"layers": [1, 2]}', "four numbers"),
        ('{"short_side": 8}', "at least 64"),
    ):
        file.write_text(text)
        with pytest.raises(ModelError, match=message):
            read_architecture(file, base)
    with pytest.raises(ModelError, match="check the path"):
        read_architecture(tmp_path / "none.json", base)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(toy_pictures()):
        picture.save(folder / f"{number}.png")
    return folder


def boxes(folder: Path, photos: Path) -> Path:
    """Annotations of the images: a box of one of two classes in each."""
    names = sorted(path.name for path in photos.iterdir())
    annotations = [
        {"id": n + 1, "image_id": n, "category_id": n % 2 + 1, "bbox": [10 + n, 10, 30, 25]} for n in range(len(names))
    ]
    content = {
        "images": [{"id": n, "file_name": name, "width": 90, "height": 70} for n, name in enumerate(names)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "red square"}, {"id": 2, "name": "green square"}],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json"


@pytest.mark.slow
def test_the_command_prunes_tunes_and_measures(
    detector: Detector, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector.align_fast_pooling(FastAlignment(embed_dim=16))
    detector.save(tmp_path / "whole.safetensors")
    annotations, output, report = boxes(tmp_path, photos), tmp_path / "small.safetensors", tmp_path / "report.json"
    command = ["prune", "--model", str(tmp_path / "whole.safetensors"), "--images", str(photos), "--device", "cpu"]
    command += ["--output", str(output), "--json", str(report), "--run", str(tmp_path / "run")]
    sizes = ["--ffn", "0.5", "--anchors", "0.5", "--decoder-layers", "1", "--encoder-layers", "1", "--heads", "0.5"]
    measured = ["--val-images", str(photos), "--val-annotations", str(annotations)]
    tuned = ["--annotations", str(annotations), "--epochs", "1"]
    assert main([*command, *sizes, "--tower-width", "0.5", "--tower-blocks", "1", *measured, *tuned]) == 0
    out = capsys.readouterr().out
    for word in ("whole", "pruned", "GMAC", "ms an image", "agreement", "AP50 all", "layer", "Wrote"):
        assert word in out
    pruned = cora.load(output)
    assert pruned.fast_alignment is not None
    assert bool(pruned.fast_alignment.shift.weight.any())  # fitted to the tower that was cut
    small = Architecture.of(pruned.config)
    assert (small.ff, small.heads, small.anchors, small.dec_layers, small.enc_layers, small.width) == (
        12,
        2,
        10,
        2,
        1,
        4,
    )
    assert sum(small.layers) == 5
    numbers = json.loads(report.read_text())["models"]
    assert numbers["pruned"]["sizes"] == small.to_dict()
    assert numbers["pruned"]["cost"]["parameters"] < numbers["whole"]["cost"]["parameters"]
    assert numbers["whole"]["agreement"] is None
    assert (tmp_path / "run" / "localizer" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "expected something to remove"),
        (["--ffn", "1"], "below 1"),
        (["--decoder-layers", "3"], "at most 2 to remove"),
        (["--tower-blocks", "3"], "at most 2 to remove"),
        (["--ffn", "0.5", "--epochs", "1"], "expected --annotations with --epochs"),
        (["--ffn", "0.5", "--model", "model.onnx"], "exported"),
        (["--ffn", "0.5", "--output", "model.pt"], "*.safetensors"),
        (["--ffn", "0.5", "--images", "nowhere"], "no file at"),
        (["--ffn", "0.5", "--val-images", "."], "together"),
        (["--tower-blocks", "1", "--architecture", "sizes.json"], "got both"),
        (["--architecture", "sizes.json"], "pruning only removes"),
    ],
)
def test_bad_input_is_told_and_nothing_written(
    wrong: list[str],
    message: str,
    detector: Detector,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    detector.save(tmp_path / "whole.safetensors")
    (tmp_path / "sizes.json").write_text('{"ff": 25}')
    before = sorted(tmp_path.iterdir())
    command = ["prune", "--model", "whole.safetensors", "--images", str(photos), "--output", "small.safetensors"]
    try:
        code = main([*command, *wrong])
    except SystemExit as stop:  # argparse's own refusals
        code = int(stop.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
