"""`@FILE` in the forms that people have, through the reader and through a command."""

import json
from pathlib import Path

import pytest

import cora
from cora.apps.cli import main
from cora.data.name_file import parse_classes
from cora.errors import VocabularyError

FORMS: dict[str, tuple[str, str | bytes]] = {
    "one a line": ("n.txt", "cat\n\nremote control\n"),
    "Windows lines": ("n.txt", b"\xef\xbb\xbfcat\r\nremote control\r\n"),
    "UTF-16 of PowerShell": ("n.txt", "cat\r\nremote control\r\n".encode("utf-16")),
    "commas": ("n.txt", "cat, remote control"),
    "commas over lines": ("n.txt", "cat,\nremote control,\n"),
    "semicolons": ("n.txt", "cat; remote control;"),
    "dots": ("n.txt", "cat . remote control ."),
    "comments": ("n.txt", "# my things\ncat # grey\n  # none\nremote control\n"),
    "numbered": ("n.txt", "1. cat\n2. remote control\n"),
    "numbered in brackets": ("n.txt", "1) cat\n2) remote control\n"),
    "numbered from 0": ("n.txt", "0 cat\n1 remote control\n"),
    "numbered with colons": ("n.txt", "0: cat\n1: remote control\n"),
    "numbered table": ("n.csv", "0,cat\n1,remote control\n"),
    "table with headings": ("n.csv", "id,name\n0,cat\n1,remote control\n"),
    "table of tabs": ("n.tsv", "class\tid\ncat\t3\nremote control\t5\n"),
    "column with a heading": ("n.csv", "Class\ncat\nremote control\n"),
    "identifiers of Open Images": ("n.csv", "/m/01yrx,cat\n/m/0qjjc,remote control\n"),
    "identifiers of WordNet": ("n.txt", "n02121808 cat\nn04074963 remote control\n"),
    "configuration of a model": ("n.json", '{"id2label": {"0": "cat", "1": "remote control"}}'),
    "tabs": ("n.txt", "cat\tremote control\n"),
    "bullets": ("n.md", "- cat\n- remote control\n"),
    "JSON list": ("n.json", '["cat", "remote control"]'),
    "JSON list in a text file": ("n.txt", '["cat",\n "remote control"]\n'),
    "Python list": ("n.txt", "['cat', 'remote control']"),
    "JSON by number": ("n.json", '{"1": "remote control", "0": "cat"}'),
    "JSON to number": ("n.json", '{"remote control": 1, "cat": 0}'),
    "COCO": ("n.json", '{"images": [], "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "remote control"}]}'),
    "data.yaml": ("data.yaml", "train: images\nnc: 2\nnames: [cat, remote control]\n"),
    "data.yaml by number": ("data.yaml", "path: ..\nnames:\n  0: cat\n  1: remote control\n"),
    "data.yaml as text": ("n.txt", "nc: 2\nnames:\n- cat\n- remote control\n"),
    "table of a spreadsheet": ("n.csv", "id;name\n0;cat\n1;remote control\n"),
    "constant of a program": ("n.py", "CLASSES = (\n    'cat',\n    'remote control',\n)\n"),
    "TOML": ("n.toml", 'names = ["cat", "remote control"]\n'),
    "full stops of Chinese": ("n.txt", "cat\u3002remote control\u3002"),
    "commas of Arabic": ("n.txt", "cat\u060c remote control"),
    "names of darknet": ("coco.names", "cat\nremote control\n"),
    "labels of CVAT": ("n.json", '[{"name": "cat", "attributes": []}, {"name": "remote control"}]'),
    "label map": ("n.pbtxt", "item {\n id: 1\n name: 'cat'\n}\nitem { name: '/m/0' display_name: 'remote control' }\n"),
}  # fmt: skip


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"@{path}"


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(tmp_path: Path, form: str) -> None:
    name, content = FORMS[form]
    assert parse_classes(write(tmp_path / name, content)) == ["cat", "remote control"]


def test_what_only_looks_numbered_or_marked(tmp_path: Path) -> None:
    assert parse_classes(write(tmp_path / "n.txt", "7 up\n8 ball\ncup\n")) == ["7 up", "8 ball", "cup"]
    assert parse_classes(write(tmp_path / "n.txt", "7 up\n")) == ["7 up"]
    assert parse_classes(write(tmp_path / "n.txt", "3 wheeler\n18 wheeler\n")) == ["3 wheeler", "18 wheeler"]
    assert parse_classes(write(tmp_path / "n.txt", "C# book\n#1 sign\n")) == ["C# book"]
    assert parse_classes(write(tmp_path / "n.txt", '"tench, Tinca tinca"\nSt. Bernard\n')) == [
        "tench, Tinca tinca", "St. Bernard",
    ]  # fmt: skip


def test_a_heading_is_one_in_tables_only(tmp_path: Path) -> None:
    assert parse_classes(write(tmp_path / "n.txt", "label\nbottle\n")) == ["label", "bottle"]
    assert parse_classes(write(tmp_path / "n.csv", "label,bottle\n")) == ["label", "bottle"]


@pytest.mark.parametrize("text", ["0: cat, 1: cup", "{0: 'cat', 1: 'cup'}", "1. cat; 2. cup"])
def test_numbered_lists_on_the_command_line(text: str) -> None:
    assert parse_classes(text) == ["cat", "cup"]


def test_numbers_that_belong_to_names() -> None:
    assert parse_classes("7 up, 8 ball, 9 iron") == ["7 up", "8 ball", "9 iron"]
    assert parse_classes("1. cat 2. cup") == ["1. cat 2. cup"]


BAD = {
    "empty": ("n.txt", "\n \n", "expected one class name a line, got none"),
    "only comments": ("n.txt", "# cat\n", "got none"),
    "bytes": ("n.txt", b"caf\xe9", "expected class names in UTF-8"),
    "UTF-16 without its mark": ("n.txt", "cat\n".encode("utf-16-le"), "got zeros in"),
    "numbers": ("n.json", "[1, 2]", "expected a JSON list of class names"),
    "broken JSON": ("n.json", '["cat"', "cannot be read as JSON|expected"),
    "no names": ("n.yaml", "train: images", "expected class names under names"),
    "XML": ("n.xml", "<labels><label>cat</label></labels>", "got XML or HTML: .*n.xml; write one name a line"),
    "lines of JSON": ("n.jsonl", '{"name": "cat"}\n{"name": "cup"}\n', "cannot be read as JSON"),
    "a workbook": ("n.xlsx", b"PK\x03\x04\x14\0\x06\0", "got zeros in"),
    "a count that differs": ("n.yaml", "nc: 5\nnames: [cat, cup]", "5 for 2 names"),
    "odd names": ("n.yaml", "names: {a: cat}", "1 name that is not a whole number"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_hold_no_names(tmp_path: Path, kind: str) -> None:
    name, content, message = BAD[kind]
    with pytest.raises(VocabularyError, match=message) as error:
        parse_classes(write(tmp_path / name, content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["cat\nremote control\n", "- cat\n- remote control", "1. cat\n2. remote control"])
def test_the_content_of_a_file_may_stand_for_it(text: str) -> None:
    assert parse_classes(text) == ["cat", "remote control"]


@pytest.mark.usefixtures("loaded", "folder")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "cat, @names.txt"], "expected class names, or one @FILE alone, got @names.txt among others"),
        (["--classes", "*"], "got '*'; leave --classes out for the built-in vocabulary"),
        (["--classes", " All"], "got 'All'; leave --classes out"),
        (
            ["--classes", "cat", "--distractors", " , "],
            '--distractors: expected names, or "none" for none, got an empty',
        ),
        (["--classes", "cat", "--class-weights", "cat:2"], "expected NAME=WEIGHT or JSON of class name to weight"),
        (["--classes", "cat", "--class-weights", "@w.json"], "cannot read @w.json: No such file or directory"),
        (
            ["--classes", "cat", "--templates", "a photo of a {}"],
            "got a template: a photo of a {}; write it into a file",
        ),
    ],
)
def test_what_stands_for_no_list_is_refused_in_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "photos/white.jpg", *options]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.usefixtures("loaded", "folder")
@pytest.mark.parametrize("none", ["none", "None", " NONE "])
def test_none_stands_for_no_distractors(none: str) -> None:
    assert main(["detect", "photos/white.jpg", "--classes", "cat", "--distractors", none]) == 0
    assert cora.load("nano").distractors == ()  # type: ignore[attr-defined]


def test_a_file_without_its_sign_is_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("cat\n")
    with pytest.raises(VocabularyError, match=r"the name of a file: names\.txt; for its names write @names\.txt"):
        parse_classes("names.txt")
    with pytest.raises(VocabularyError, match="got No such file"):
        parse_classes("@none.txt")


@pytest.mark.usefixtures("loaded", "folder")
@pytest.mark.parametrize("classes", ["cat . cup . spoon .", "cat; cup; spoon", "cat | cup | spoon", "cat, cup, spoon,"])
def test_detect_reads_the_lists_of_other_tools(classes: str) -> None:
    assert main(["detect", "photos/white.jpg", "--classes", classes, "--json", "boxes.json"]) == 0
    assert [c["name"] for c in json.loads(Path("boxes.json").read_text())["categories"]] == ["cat", "cup", "spoon"]
