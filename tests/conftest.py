"""Options and markers that every test shares."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the tests that ask for one (default: cpu)")
    parser.addoption(
        "--dtype",
        default="float32",
        choices=("float32", "float64", "bfloat16", "float16"),
        help="dtype of the tests that ask for one (default: float32)",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_shared") is None or SHARED.is_dir():
        return
    # A user without the data may skip; a CI that silently skips parity would be no CI.
    if os.environ.get("CI"):
        pytest.fail(f"needs the folder {SHARED}, and CI must not skip this test", pytrace=False)
    pytest.skip(f"needs the folder {SHARED}")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found = getattr(torch, request.config.getoption("--dtype"))
    assert isinstance(found, torch.dtype)
    return found


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data beside the repository; mark tests that use it with `needs_shared`."""
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache of class embeddings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORA_CACHE", str(tmp_path_factory.mktemp("cora-cache")))
        yield
