"""Options and markers that every test shares."""

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from hypothesis import HealthCheck, settings

# No test depends on how fast the machine is.
settings.register_profile("cora", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cora")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

#: Reasons that hold on an ordinary machine with all packages of the extra `test-all`.
MAY_BE_SKIPPED_IN_CI = (
    "GPU",
    "extra nano",
    "extra litert",
    "compares with ncnn",
    "this file system",
    "this build",
    "'tkinter'",
)

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the tests that ask for one (default: cpu)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_shared") and not SHARED.is_dir():
        pytest.skip(f"needs the folder {SHARED}")
    if item.get_closest_marker("browser"):
        pytest.importorskip("playwright", reason="needs the package playwright: pip install -e '.[test-all]'")
        if shutil.which("chromium") is None:
            pytest.skip("needs the browser chromium")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _unless_skipped_in_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    # The default run does without the packages of other tiers, and reads the files of their tests all the same.
    default = "not integration" in collector.config.getoption("markexpr")
    return report if default else _unless_skipped_in_ci(report)


def _unless_skipped_in_ci(report: Report) -> Report:
    """A user may skip what the machine cannot run; a CI that skips in silence would be none."""
    if not (os.environ.get("CI") and report.skipped) or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(part in reason for part in MAY_BE_SKIPPED_IN_CI):
        report.outcome = "failed"
        report.longrepr = f"CI must not skip this test ({reason.removeprefix('Skipped: ')})"
    return report


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


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
