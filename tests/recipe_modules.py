"""Imports files of `recipes`, which are no package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

RECIPES = Path(__file__).parents[1] / "recipes"


@contextmanager
def recipe_module(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import a recipe; it and those that it imports do not stay for other tests, having plain names ("crops")."""
    monkeypatch.syspath_prepend(str(path.parent))
    before = set(sys.modules)
    try:
        yield importlib.import_module(path.stem)
    finally:
        for module in set(sys.modules) - before:
            file = getattr(sys.modules[module], "__file__", None)
            if file and RECIPES in Path(str(file)).parents:
                del sys.modules[module]
