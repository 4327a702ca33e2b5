"""The examples in docstrings work as they stand, in a folder of images and a video of the names that they use."""

import ast
import doctest
import functools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cora

ROOT = Path(__file__).resolve().parents[1]
#: Modules whose examples need a package of the extra `test-all`.
LARGE = {"cora.retrieval.index": "lancedb"}


@dataclass(frozen=True)
class Example:
    """A docstring with examples: where it stands, and its text."""

    module: str
    name: str
    file: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def examples_of(source: str, file: Path, module: str) -> list[Example]:
    """Read without importing, so that collecting needs no package."""

    def walk(node: ast.AST, name: str) -> Iterator[Example]:
        """What stands in a node; a text that is a statement describes what is above it."""
        above = name
        for inner in ast.iter_child_nodes(node):
            match inner:
                case ast.Expr(ast.Constant(str(text))) if ">>>" in text:
                    yield Example(module, above or "module", file, inner.lineno - 1, text)
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield from walk(inner, f"{name}.{inner.name}".lstrip("."))
                case ast.Assign([ast.Name(target)]) | ast.AnnAssign(ast.Name(target)):
                    above = f"{name}.{target}".lstrip(".")
                case _:
                    yield from walk(inner, name)

    return list(walk(ast.parse(source), ""))


def all_examples() -> list[Example]:
    found = []
    for file in sorted((ROOT / "src" / "cora").rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if ">>>" in source:
            parts = file.relative_to(ROOT / "src").with_suffix("").parts
            found += examples_of(source, file, ".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


#: Reads a model once for all examples.
load_once = functools.cache(cora.load)


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that examples name."""
    (tmp_path / "images").mkdir()
    for name in ("cat", "coffee"):
        shutil.copy(ROOT / "examples" / f"{name}.jpg", tmp_path)
        with Image.open(ROOT / "examples" / f"{name}.jpg") as image:
            image.resize((200, 150)).save(tmp_path / "images" / f"{name}.jpg")
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cup"}]
    sizes = {"width": 200, "height": 150}
    images = [{"id": 1, "file_name": "cat.jpg", **sizes}, {"id": 2, "file_name": "coffee.jpg", **sizes}]
    boxes = [{"id": n, "image_id": n, "category_id": n, "bbox": [40, 30, 100, 80]} for n in (1, 2)]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_video(path: Path, frames: int = 6) -> None:
    """Ten images a second, 96 x 64 pixels, of a square that moves."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames):
            pixels = np.full((64, 96, 3), 90, dtype=np.uint8)
            pixels[20:40, 10 + 4 * number : 30 + 4 * number] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())


def run(example: Example, names: dict[str, object]) -> str:
    """What fails, as doctest writes it; empty where all passes."""
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    test = doctest.DocTestParser().get_doctest(example.text, names, str(example), str(example.file), example.line)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=options).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(one, id=str(one), marks=[pytest.mark.integration] if one.module in LARGE else [])
        for one in all_examples()
    ],
)
def test_an_example_of_a_docstring_works(example: Example, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not example.module.startswith("cora.training"):  # which changes the model
        monkeypatch.setattr(cora, "load", load_once)
    if example.module in LARGE:
        pytest.importorskip(LARGE[example.module])
    if "street.mp4" in example.text:
        write_video(samples / "street.mp4")
    # What a reader has imported: the package, and what the module of the docstring knows.
    names = vars(import_module(example.module)) | {"cora": cora, "torch": torch, "Image": Image, "Path": Path}
    assert not (failed := run(example, names)), failed


def test_examples_of_modules_classes_and_methods_are_found_and_a_wrong_one_fails() -> None:
    source = '''"""Adds.

Examples:
    >>> 1 + 1
    2
"""


Numbers = list[int]
"""Some.

Examples:
    >>> Numbers
    list[int]
"""


class Sum:
    """A sum."""

    def of(self):
        """The sum.

        Examples:
            >>> 1 + 1
            3
        """
'''
    right, alias, wrong = examples_of(source, Path("sums.py"), "sums")
    assert (right.name, alias.name, wrong.name) == ("module", "Numbers", "Sum.of")
    assert run(right, {}) == run(alias, {"Numbers": list[int]}) == ""
    assert "Expected:\n    3\nGot:\n    2" in run(wrong, {})
    assert "line 25, in sums:Sum.of" in run(wrong, {})
