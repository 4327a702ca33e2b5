"""An index through its Python interface, with a small network of random weights."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from cora.detector import Detector
from cora.errors import ImageError, VocabularyError
from cora.predictor.exemplars import embed_region
from cora.retrieval import Hit, RegionIndex, RegionSettings, RetrievalError, UpdateReport
from cora.retrieval.identity import model_identity
from cora.retrieval.manifest import MANIFEST
from cora.retrieval.sheet import draw_hits, framed
from cora.retrieval.store import PictureFile
from tests.detector.conftest import tiny_detector
from tests.retrieval.conftest import regions, write_picture

pytestmark = pytest.mark.integration

SETTINGS = RegionSettings(score=0, nms_iou=1, max_regions=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return tiny_detector(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def place(tmp_path: Path, folder: Path, model: Detector) -> Path:
    """An index of the folder."""
    index, report = RegionIndex.build(tmp_path / "index", folder, model, settings=SETTINGS)
    assert report == UpdateReport(added=3)
    assert len(index) == 15
    return tmp_path / "index"


def test_a_stored_region_finds_itself_first(place: Path, folder: Path, model: Detector) -> None:
    index = RegionIndex.open(place)
    some = index.search(embed_region(model, folder / "b.png"), top=15)
    assert [hit.similarity for hit in some] == sorted((hit.similarity for hit in some), reverse=True)
    hit = next(hit for hit in some if hit.file == "b.png")
    first = index.search_image(model, folder / "b.png", hit.box_xyxy_px, top=1)[0]
    assert (first.file, first.box_xyxy_px) == ("b.png", hit.box_xyxy_px)
    assert first.similarity == pytest.approx(1, abs=1e-3)
    with Image.open(folder / "b.png") as picture:
        assert index.search_image(model, picture.copy(), box=hit.box_xyxy_px, top=1)[0].file == "b.png"


def test_words(place: Path, model: Detector) -> None:
    index = RegionIndex.open(place)
    hits = index.search_text(model, "red cup", top=4)
    assert len(hits) == 4
    assert index.search_text(model, " A red cup ", top=4) == hits
    assert index.search_text(model, "the dog", top=15) != index.search_text(model, "cup", top=15)


@pytest.mark.parametrize("text", ["", "  ", "very " * 30])
def test_unusable_words_are_told(place: Path, model: Detector, text: str) -> None:
    with pytest.raises(VocabularyError, match="expected"):
        RegionIndex.open(place).search_text(model, text)


def test_another_model_is_refused(place: Path, folder: Path, tmp_path: Path, model: Detector) -> None:
    other = tiny_detector(tmp_path / "cache", seed=1)
    with pytest.raises(RetrievalError, match="expected the model that made it"):
        RegionIndex.open(place).search_text(other, "cup")
    with pytest.raises(RetrievalError, match="expected the model that made it"):
        RegionIndex.open(place).search_image(other, folder / "a.png")
    with pytest.raises(RetrievalError, match="expected the model that made it"):
        RegionIndex.build(place, folder, other)


def test_identity_is_of_weights_and_preparation(tmp_path: Path, model: Detector) -> None:
    model.save(tmp_path / "model.safetensors")
    from cora.detector.presets import load_checkpoint

    saved = load_checkpoint(tmp_path / "model.safetensors")
    assert model_identity(saved) == model_identity(model)
    templates = saved.vocabulary_encoder.templates
    saved.vocabulary_encoder.templates = ("a drawing of a {}",)
    assert model_identity(saved) == model_identity(model)
    saved.vocabulary_encoder.templates = templates
    with torch.no_grad():
        saved.prompt.offset[0, 0] += 1
    assert model_identity(saved) != model_identity(model)


def test_one_index_has_one_choice_of_regions(place: Path, folder: Path, model: Detector) -> None:
    with pytest.raises(RetrievalError, match="expected the max_regions that it was made with"):
        RegionIndex.build(place, folder, model, settings=RegionSettings(score=0, nms_iou=1, max_regions=6))
    with pytest.raises(RetrievalError, match="expected the classes that it was made with"):
        RegionIndex.build(
            place, folder, model, settings=RegionSettings(score=0, nms_iou=1, max_regions=5, classes=("cat",))
        )
    index, report = RegionIndex.build(place, folder, model)
    assert index.settings == SETTINGS
    assert report == UpdateReport(unchanged=3)


def test_one_index_has_one_folder_that_may_move(place: Path, folder: Path, tmp_path: Path, model: Detector) -> None:
    write_picture(tmp_path / "other" / "x.png", 5)
    with pytest.raises(RetrievalError, match="expected its folder"):
        RegionIndex.build(place, tmp_path / "other", model)
    folder.rename(tmp_path / "moved")
    index, report = RegionIndex.build(place, tmp_path / "moved", model)
    assert report == UpdateReport(unchanged=3)
    assert RegionIndex.open(place).folder == index.folder == (tmp_path / "moved").resolve()


def test_an_empty_folder_makes_no_index(tmp_path: Path, model: Detector) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="got none in or below"):
        RegionIndex.build(tmp_path / "index", tmp_path / "empty", model)
    assert not (tmp_path / "index").exists()


def test_a_used_place_is_left_as_it_is(tmp_path: Path, folder: Path, model: Detector) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(RetrievalError, match="expected a free place"):
        RegionIndex.build(folder, folder, model)
    assert sorted(folder.rglob("*")) == before


def test_copies_are_named(place: Path, folder: Path, model: Detector) -> None:
    shutil.copy(folder / "a.png", folder / "z.png")
    index, _ = RegionIndex.build(place, folder, model)
    hit = next(hit for hit in index.search_text(model, "cup", top=15) if hit.file == "a.png")
    assert hit.copies == ("z.png",)


def test_regions_without_a_file_take_no_places(place: Path, model: Detector) -> None:
    index = RegionIndex.open(place)
    expected = index.search_text(model, "cup", top=3)
    left = regions(1, 40, width=model.image_tower.embed_dim)
    encoder = model.vocabulary_encoder
    left.embeddings[:] = encoder.encode(["cup"]).embeddings[0]  # nearer to the words than any region
    index._store.add([], {"left by an interrupted run": left})
    assert index.search_text(model, "cup", top=3) == expected


def test_regions_of_one_picture_are_limited(place: Path, model: Detector) -> None:
    index = RegionIndex.open(place)
    hits = index.search_text(model, "cup", top=15, per_picture=1)
    assert sorted(hit.file for hit in hits) == ["a.png", "b.png", "deeper/c.png"]
    everything = index.search_text(model, "cup", top=15)
    assert hits[0] == everything[0]
    assert len(everything) == 15


def test_an_index_without_regions_finds_nothing(tmp_path: Path, folder: Path, model: Detector) -> None:
    index, _ = RegionIndex.build(tmp_path / "index", folder, model, settings=RegionSettings(score=1))
    assert len(index) == 0
    assert index.search_text(model, "cup") == []


def test_labels_are_kept(tmp_path: Path, folder: Path, model: Detector) -> None:
    settings = RegionSettings(classes=("cat", "dog"), score=0, nms_iou=1)
    index, _ = RegionIndex.build(tmp_path / "index", folder, model, settings=settings)
    assert {hit.label for hit in index.search_text(model, "cat", top=30)} <= {"cat", "dog"}
    assert RegionIndex.open(tmp_path / "index").settings == settings


def test_wrong_arguments_are_refused(place: Path) -> None:
    index = RegionIndex.open(place)
    with pytest.raises(ValueError, match="top: expected at least 1"):
        index.search(torch.ones(32), top=0)
    with pytest.raises(ValueError, match=r"expected shape \[32\], got \[3\]"):
        index.search(torch.ones(3))


def test_an_index_survives_a_manifest_that_was_being_written(place: Path, folder: Path, model: Detector) -> None:
    (place / ".index-half.json").write_text("{")
    (place / MANIFEST).unlink()
    index, report = RegionIndex.build(place, folder, model, settings=SETTINGS)
    assert (report.added, len(index)) == (3, 15)


def hit_of(file: str, box: tuple[float, float, float, float] = (10, 8, 30, 24)) -> Hit:
    return Hit(file, box, similarity=0.5, score=0.5, label=None)


def test_a_sheet_shows_every_region_and_the_query(folder: Path) -> None:
    missing: list[str] = []
    hits = [hit_of("a.png"), hit_of("b.png"), hit_of("gone.png")]
    alone = draw_hits(folder, hits, missing=missing, columns=4, cell_px=64)
    assert len(missing) == 1
    assert "gone.png" in missing[0]
    searched = draw_hits(folder, hits, missing=missing, query=Image.new("RGB", (9, 9)), columns=4, cell_px=64)
    assert searched.width > alone.width
    assert searched.height == alone.height


def test_a_frame_is_where_the_region_ends() -> None:
    white = Image.new("RGB", (100, 100), "white")
    cell = framed(white, (25, 25, 75, 75), cell_px=85)  # the window is 7.5 to 92.5, shown one to one
    assert cell.size == (85, 85)
    reds = {(x, y) for x in range(85) for y in range(85) if cell.getpixel((x, y)) != (255, 255, 255)}
    assert min(x for x, _ in reds) == pytest.approx(17, abs=2)
    assert max(x for x, _ in reds) == pytest.approx(67, abs=2)


def test_a_frame_is_seen_on_its_own_colour() -> None:
    cell = framed(Image.new("RGB", (100, 100), (230, 60, 40)), (25, 25, 75, 75), cell_px=85)
    light = {(x, y) for x in range(85) for y in range(85) if cell.getpixel((x, y)) == (255, 255, 255)}
    assert min(x for x, _ in light) == pytest.approx(19, abs=2)
    assert max(x for x, _ in light) == pytest.approx(65, abs=2)


def test_a_frame_outside_a_picture_that_was_replaced() -> None:
    assert framed(Image.new("RGB", (10, 10)), (50, 50, 60, 60)).size == (10, 10)


def test_files_with_any_name_are_found(place: Path, model: Detector) -> None:
    index = RegionIndex.open(place)
    name = 'it\'s a "image" %_\\ größe.png'
    index._store.add([PictureFile(name, "odd'content", 1, 1)], {"odd'content": regions(3, 2, width=32)})
    assert name in {hit.file for hit in index.search_text(model, "cup", top=20)}
    index._store.remove([name])
    assert name not in index._store.pictures()
