"""The API page has all public names, the site all pages, and docstrings describe the names that there are."""

import ast
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import cora

ROOT = Path(__file__).resolve().parents[2]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
SHOWN = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)


def pages_of(nav: list[dict[str, object]]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            if isinstance(target, list):
                yield from pages_of(target)
            else:
                yield str(target)


def test_the_api_page_has_every_public_name() -> None:
    assert sorted(set(cora.__all__) - {name.removeprefix("cora.") for name in SHOWN}) == []


def test_the_api_page_names_what_there_is_once() -> None:
    assert len(SHOWN) == len(set(SHOWN))
    for name in SHOWN:
        pkgutil.resolve_name(name)


def test_the_navigation_has_every_page_once() -> None:
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    # The first page is the README.
    assert sorted(pages_of(SITE["nav"])) == sorted([*pages, "index.md"])


@pytest.mark.parametrize("file", [".ci/run", ".github/workflows/tests.yml"])
def test_ci_builds_the_site_strictly(file: str) -> None:
    assert "mkdocs build --strict" in (ROOT / file).read_text(encoding="utf-8")


def described(docstring: str) -> list[str]:
    """Names below `Args:` and `Attributes:`."""
    sections = re.findall(r"^(?:Args|Attributes):\n((?:(?: {4}.*)?\n)*)", docstring + "\n", re.MULTILINE)
    return [name for section in sections for name in re.findall(r"^ {4}(\w+):", section, re.MULTILINE)]


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    of = function.args
    return {one.arg for one in (*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg) if one is not None}


def names_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Parameters; of a class its fields, properties, what it sets of itself, and the parameters of its constructor."""
    if not isinstance(node, ast.ClassDef):
        return parameters_of(node)
    names: set[str] = set()
    for part in ast.walk(node):
        match part:
            case ast.FunctionDef(name="__init__"):
                names |= parameters_of(part)
            case ast.FunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def wrongly_described(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            known = names_of(node)
            wrong = [name for name in described(ast.get_docstring(node) or "") if name not in known]
            found += [f"{node.name}: {name}" for name in wrong]
    return found


def test_docstrings_describe_parameters_and_attributes_that_there_are() -> None:
    found = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        if wrong := wrongly_described(path.read_text(encoding="utf-8")):
            found[str(path.relative_to(ROOT))] = wrong
    assert not found


def test_a_wrong_name_in_a_docstring_is_found() -> None:
    source = '''
class Box:
    """A box.

    Attributes:
        width: in pixels;
            height: is none of the names here.
        hight: in pixels.
    """

    width: int
    height: int

    def scale(self, *, by: float) -> None:
        """Scale it.

        Args:
            by: factor.
            to: width in pixels.

        Returns:
            none: of the names.
        """
'''
    assert wrongly_described(source) == ["Box: hight", "scale: to"]
