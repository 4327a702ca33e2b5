import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.data.read import read_dataset
from cora.errors import DataError
from tests.data.writers import Photo, random_photos, same_boxes, two_photos, voc_xml, write_voc


@settings(max_examples=25, deadline=None)
@given(photos=random_photos(crowds=True))
def test_boxes_survive_writing_and_reading(photos: list[Photo]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder, annotations = write_voc(Path(root), photos)
        dataset = read_dataset(images=folder, annotations=annotations)
    same_boxes(dataset, photos)
    assert not dataset.repairs
    assert dataset.class_names == tuple(sorted({box[0] for photo in photos for box in photo.boxes}))


def test_pixels_count_from_one_and_are_inclusive(tmp_path: Path) -> None:
    xml = voc_xml(Photo("a.png", (20, 40), [("cat", 0, 0, 40, 20, False), ("cat", 0, 0, 1, 1, True)]))
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>20</ymax>" in xml
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>1</xmax><ymax>1</ymax>" in xml
    folder, annotations = write_voc(tmp_path, two_photos())
    (annotations / "a.xml").write_text(xml)
    dataset = read_dataset(images=folder, annotations=annotations)
    assert dataset.records[0].boxes_xyxy_px.tolist() == [[0, 0, 40, 20]]
    assert dataset.records[0].crowd_boxes_xyxy_px.tolist() == [[0, 0, 1, 1]]


def test_ids_count_up(tmp_path: Path) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    content = read_dataset(images=folder, annotations=annotations).to_coco()
    assert [image["id"] for image in content["images"]] == [1, 2]
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


ENTITIES = '<!DOCTYPE annotation [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
FOREIGN = '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><name>&a;</name></annotation>'


def boxed(xmin: str, xmax: str) -> str:
    corners = f"<xmin>{xmin}</xmin><ymin>2</ymin><xmax>{xmax}</xmax><ymax>9</ymax>"
    return f"<object><name>dog</name><bndbox>{corners}</bndbox></object>"


#: the file b.xml or its objects, what is said about it; b has one box of three
BAD: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "1 XML file that cannot be read"),
    "no XML": ("no xml <", "1 XML file that cannot be read"),
    "unclosed": (voc_xml(two_photos()[1])[:-5], "1 XML file that cannot be read"),
    "other XML": ("<svg/>", "1 XML file without an annotation element"),
    "entities": (ENTITIES, "1 XML file with a document type or zeros, which"),
    "foreign file": (FOREIGN, "1 XML file with a document type"),
    "entities in UTF-16": (ENTITIES.encode("utf-16"), "1 XML file that cannot be read"),
    "entities in UTF-16 without a mark": (ENTITIES.encode("utf-16-le"), "1 XML file with a document type or zeros"),
    "Latin-1": ("<annotation><filename>é</filename></annotation>".encode("latin-1"), "1 XML file .*in UTF-8"),
    "parent folder": (voc_xml(Photo("../out.png", (30, 30))), "1 file name that leaves the image folder"),
    "absolute name": (voc_xml(Photo("/etc/passwd", (30, 30))), "1 file name that leaves the image folder"),
    "other size": (voc_xml(Photo("b.png", (30, 31))), "1 image of another size than its file says"),
    "second file": (voc_xml(Photo("a.png", (20, 40))), r"1 image with two XML files \(first: b.xml: a.png\)"),
    "no name": ("<object/>", r"1 object without a name \(first: b.xml, object 1\)"),
    "no box": ("<object><name>dog</name></object>", "1 box that is not four finite numbers"),
    "words": (boxed("one", "20"), "1 box that is not four finite numbers"),
    "not finite": (boxed("inf", "20"), "1 box that is not four finite numbers"),
    "no number": (boxed("nan", "20"), "1 box that is not four finite numbers"),
    "corners swapped": (boxed("25", "20"), r"1 box without an area \(first: b.xml, object 1\)"),
    "outside": (boxed("50", "60"), "1 box outside its image"),
}


PIECES = ["<object>", "</object>", "<annotation>", "</annotation>", "<name>", "</name>", "<bndbox>", "</bndbox>"]
PIECES += ["<xmin>", "</xmin>", "1e999", "-3", "<!DOCTYPE a [", "]>", "&#0;", "&a;", "<filename>", "</filename>", "\0"]


@settings(max_examples=60, deadline=None)
@given(text=st.binary(max_size=30) | st.lists(st.sampled_from(PIECES), max_size=12).map(lambda x: "".join(x).encode()))
def test_whatever_stands_in_a_file_no_other_error_comes_out(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder, annotations = write_voc(Path(root), two_photos())
        (annotations / "b.xml").write_bytes(text)
        dataset = read_dataset(images=folder, annotations=annotations, skip_bad=True)
    assert len(dataset.records[0].classes) == 2


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_or_left_out(tmp_path: Path, kind: str) -> None:
    text, message = BAD[kind]
    folder, annotations = write_voc(tmp_path, two_photos())
    Image.new("1", (30, 30)).save(tmp_path / "out.png")
    if isinstance(text, str):
        whole = f"<annotation><filename>b.png</filename>{text}</annotation>"
        text = (whole if text.startswith("<object") else text).encode()
    (annotations / "b.xml").write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_dataset(images=folder, annotations=annotations)
    dataset = read_dataset(images=folder, annotations=annotations, skip_bad=True)
    assert dataset.class_counts().tolist() == [1, 1]
    assert sum(dataset.dropped.values()) == 1


def test_a_missing_photo_takes_its_boxes_along(tmp_path: Path) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    (folder / "b.png").unlink()
    with pytest.raises(DataError, match=r"1 missing image file \(first: b.png\)"):
        read_dataset(images=folder, annotations=annotations)
    dataset = read_dataset(images=folder, annotations=annotations, skip_bad=True)
    assert dataset.dropped == {"missing image files": 1, "boxes of images left out": 1}


def test_files_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    monkeypatch.setattr("cora.data.voc.MAX_XML_BYTES", 10)
    with pytest.raises(DataError, match=r"2 XML files that cannot be read .*of at most 10 bytes"):
        read_dataset(images=folder, annotations=annotations)


@pytest.mark.parametrize("name", ["", "b", "b.jpg", "elsewhere.png"])
def test_the_photo_of_the_files_own_name_stands_in(tmp_path: Path, name: str) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    (annotations / "b.xml").write_text(voc_xml(Photo(name, (30, 30), two_photos()[1].boxes)))
    same_boxes(read_dataset(images=folder, annotations=annotations), two_photos())


def test_sizes_that_are_not_told_are_measured(tmp_path: Path) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    for path in annotations.iterdir():
        text = path.read_text()
        path.write_text(text[: text.index("<size>")] + text[text.index("</size>") + 7 :])
    same_boxes(read_dataset(images=folder, annotations=annotations), two_photos())
    (folder / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 image that cannot be read"):
        read_dataset(images=folder, annotations=annotations)


def test_classes_asked_for_may_lack_in_a_part_but_not_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    dataset = read_dataset(images=folder, annotations=annotations, class_names=["dog", "bus"])
    assert dataset.class_counts().tolist() == [2, 0]
    assert "lacks 1 of the 2 classes asked for: bus" in caplog.text
    ids = [category["id"] for category in dataset.to_coco()["categories"]]
    assert len(set(ids)) == 2
    with pytest.raises(DataError, match="expected boxes of the classes bus, got none; it has boxes of: cat, dog"):
        read_dataset(images=folder, annotations=annotations, class_names=["bus"])


def test_no_objects_at_all(tmp_path: Path) -> None:
    folder, annotations = write_voc(tmp_path, [Photo("a.png", (20, 40))])
    with pytest.raises(DataError, match="got none in 1 image"):
        read_dataset(images=folder, annotations=annotations)


def one_object(body: str, name: str = "dog") -> str:
    return (
        "<annotation><filename>b.png</filename><size><width>30</width><height>30</height></size>"
        f"<object><name>{name}</name>{body}</object></annotation>"
    )


#: what stands in the place of a box of the pixels 3..12 across and 5..20 down
OUTLINES = {
    "numbered points": "<polygon><x1>3</x1><y1>5</y1><x2>12</x2><y2>5</y2><x3>7</x3><y3>20</y3></polygon>",
    "points": "<polygon><pt><x>3</x><y>5</y></pt><pt><x>12</x><y>9</y></pt><pt><x>4</x><y>20</y></pt></polygon>",
    "named points": "<polygon><point><x>3</x><y>20</y></point><point><x>12</x><y>5</y></point></polygon>",
    "two parts": "<polygon><x1>3</x1><y1>5</y1><x2>4</x2><y2>5</y2></polygon>"
    "<polygon><x1>8</x1><y1>9</y1><x2>12</x2><y2>20</y2></polygon>",
    "turned by nothing": "<robndbox><cx>7.5</cx><cy>12.5</cy><w>9</w><h>15</h><angle>0</angle></robndbox>",
    "turned by a quarter": "<robndbox><cx>7.5</cx><cy>12.5</cy><w>15</w><h>9</h><angle>1.5707963268</angle></robndbox>",
    "a box, too": "<polygon><x1>1</x1><y1>1</y1><x2>2</x2><y2>2</y2></polygon>"
    "<bndbox><xmin>3</xmin><ymin>5</ymin><xmax>12</xmax><ymax>20</ymax></bndbox>",
}


@pytest.mark.parametrize("kind", OUTLINES)
def test_an_outline_gives_its_box(tmp_path: Path, kind: str) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    (annotations / "b.xml").write_text(one_object(OUTLINES[kind]))
    box = read_dataset(images=folder, annotations=annotations).records[1].boxes_xyxy_px.tolist()
    assert box == [pytest.approx([2, 4, 12, 20], abs=1e-4)]


@pytest.mark.parametrize(
    "body",
    [
        *("<polygon/>", "<polygon><x1>3</x1><y1>5</y1></polygon>", "<polygon><x1>3</x1><x2>5</x2><y1>2</y1></polygon>"),
        *("<polygon><x1>a</x1><y1>5</y1><x2>3</x2><y2>5</y2></polygon>", "<robndbox><cx>3</cx></robndbox>"),
    ],
)
def test_outlines_that_cannot_be_used_are_counted(tmp_path: Path, body: str) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    (annotations / "b.xml").write_text(one_object(body))
    with pytest.raises(DataError, match=r"1 box that is not four finite numbers \(first: b.xml, object 1\)"):
        read_dataset(images=folder, annotations=annotations)


BOX = "<bndbox><xmin>3</xmin><ymin>5</ymin><xmax>12</xmax><ymax>20</ymax></bndbox>"


@pytest.mark.parametrize(("value", "crowd"), [("0", 0), ("false", 0), ("", 0), ("1", 1), ("True", 1), (" 1 ", 1)])
def test_difficult_is_told_by_any_truth_value(tmp_path: Path, value: str, crowd: int) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    (annotations / "b.xml").write_text(one_object(f"<difficult>{value}</difficult>{BOX}"))
    assert len(read_dataset(images=folder, annotations=annotations).records[1].crowd_classes) == crowd


def test_other_values_of_difficult_are_counted(tmp_path: Path) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    (annotations / "b.xml").write_text(one_object(f"<difficult>often</difficult>{BOX}"))
    message = r"1 value of difficult that is neither 0 nor 1 \(first: b.xml, object 1: often\)"
    with pytest.raises(DataError, match=message):
        read_dataset(images=folder, annotations=annotations)


@pytest.mark.parametrize("name", ["C:\\set\\b.png", "..\\b.png", "/home/x/b.png", "https://x.org/b.png", "B.PNG"])
def test_photos_under_the_names_of_other_systems(tmp_path: Path, name: str) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    (annotations / "b.xml").rename(annotations / "other.XML")
    (annotations / "other.XML").write_text(voc_xml(Photo(name, (30, 30), two_photos()[1].boxes)))
    (annotations / "._a.xml").write_bytes(b"\0\5")
    same_boxes(read_dataset(images=folder, annotations=annotations), two_photos())


def test_spellings_of_one_class_become_the_commonest(tmp_path: Path) -> None:
    folder, annotations = write_voc(tmp_path, two_photos())
    (annotations / "b.xml").write_text(
        one_object(BOX, name="Dog ").replace("</annotation>", f"<object><name>DOG</name>{BOX}</object></annotation>")
    )
    dataset = read_dataset(images=folder, annotations=annotations)
    assert len(dataset.class_names) == 2
    assert {name.casefold() for name in dataset.class_names} == {"cat", "dog"}
    assert dataset.repairs["classes named like another but for case and blanks, merged into it"] == 2
    assert dataset.repairs["boxes given twice, kept once"] == 1
