"""Two processes learn what one learns from batches twice as large."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cora.errors import DataError, MissingExtraError, TrainingError
from cora.training.engine import Engine, check_shared_folder, check_started, launch
from tests.training import two_processes

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and findings of two processes."""
    folder = tmp_path_factory.mktemp("pair")
    torch.set_num_threads(1)
    found = launch(partial(two_processes.together, folder), processes=2, device="cpu")
    assert found is not None
    return folder, found


def assert_same_weights(one: Path, other: Path, *, tolerance: float) -> None:
    expected, found = (torch.load(folder / "weights.pt", weights_only=True) for folder in (one, other))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_a_process_alone_is_this_one() -> None:
    engine = launch(lambda engine: engine)  # would not even be possible to send to another
    assert engine is not None
    assert (engine.rank, engine.world, engine.is_main, engine.gather("x")) == (0, 1, True, ["x"])
    assert engine.collect("x") == ["x"]


def test_two_processes_are_one_with_twice_the_batch(pair: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    assert pair[1]["world"] == 2
    assert pair[1]["ranks"] == [0, 1]
    assert pair[1]["collected"] == [[0, 1], []]
    two_processes.points(Engine(), tmp_path / "points")
    assert_same_weights(tmp_path / "points", pair[0] / "points", tolerance=1e-6)


def test_two_processes_accumulate_alike(pair: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    two_processes.points(Engine(), tmp_path, accumulate=2)
    assert_same_weights(tmp_path, pair[0] / "accumulated", tolerance=1e-6)


def test_the_localizer_learns_the_same_in_two_processes(pair: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    two_processes.maps(Engine(), tmp_path)
    start = two_processes.trainable_state(two_processes.localizer_task(tmp_path))
    assert_same_weights(tmp_path, pair[0] / "maps", tolerance=1e-6)
    learned = torch.load(tmp_path / "weights.pt", weights_only=True)["model"]
    assert max(float((learned[name] - tensor).abs().max()) for name, tensor in start.items()) > 1e-3


def test_a_stopped_pair_goes_on_with_the_random_states_of_both(pair: tuple[Path, dict[str, Any]]) -> None:
    folder, found = pair
    assert found["stopped"] == [(6, True)] * 2
    assert_same_weights(folder / "whole", folder / "parts", tolerance=0.0)
    assert found["random"][0] != found["random"][1]


def test_a_checkpoint_of_two_inside_an_epoch_is_not_for_one(pair: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    state = torch.load(pair[0] / "parts" / "last.pt", weights_only=True)
    torch.save(state | {"position": {"epoch": 1, "batch": 2, "step": 6}}, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="inside an epoch by 2 processes, now there are 1; go on with as many"):
        two_processes.points(Engine(), tmp_path, dropout=0.5)


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ("raise", DataError, "no image here"),
        ("disk", FileNotFoundError, "nowhere.png"),
        ("kill", TrainingError, "expected 2 processes to the end, but process 1 ended with SIGKILL; if memory was"),
    ],
)
def test_a_process_that_fails_ends_all_with_its_error(end: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        launch(partial(two_processes.fail, end), processes=2, device="cpu")


def test_numbers_that_are_not_those_of_torchrun_or_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    check_started(processes=2, machines=2)
    check_started(processes=1, machines=1)  # the script of a job is one process
    with pytest.raises(TrainingError, match="for the 4 processes that Slurm starts, got 3 on each of 1"):
        check_started(processes=3, machines=1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_started(processes=2, machines=1)
    with pytest.raises(TrainingError, match="for the 2 processes that torchrun starts, got 1 on each of 1"):
        launch(lambda engine: engine)


def test_machines_without_a_common_disk_are_noticed(tmp_path: Path) -> None:
    class Apart(Engine):
        def gather(self, value: Any) -> list[Any]:
            return [value, [0, 0, 0]]

    with pytest.raises(TrainingError, match=r"but 1 of 1 see others than the first \(rank 1\)"):
        check_shared_folder(Apart(), tmp_path, [1, 0, 5])


def test_what_cannot_be_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="at least 1 process and 1 machine, got 0 and 1"):
        launch(lambda engine: engine, processes=0)
    with pytest.raises(TrainingError, match="2 machines need torchrun or srun"):
        launch(lambda engine: engine, machines=2, device="cpu")
    gpus = torch.cuda.device_count()
    with pytest.raises(TrainingError, match=f"at least {gpus + 1} GPUs for {gpus + 1} processes, got {gpus}"):
        launch(lambda engine: engine, processes=gpus + 1, device="cuda")
    with pytest.raises(
        TrainingError, match=r"a function that new processes can import by name, got <function .*lambda"
    ):
        launch(lambda engine: engine, processes=2, device="cpu")
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(MissingExtraError, match=r"several processes needs .*cora-ovd\[train\]"):
        launch(partial(two_processes.together, Path()), processes=2, device="cpu")
