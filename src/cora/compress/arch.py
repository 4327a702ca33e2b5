"""Search for the best architecture within a time budget per image, measured on this machine.

Every candidate is the detector pruned to the candidate's sizes and, if asked for, distilled for a short time. Its
quality is measured, not predicted, and the best candidate is a usable model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cora.compress.arch_sizes import LEAST_SIDE, Architecture, read_architecture
from cora.detector import Detector
from cora.errors import ModelError, needs_extra
from cora.files import write_json
from cora.training.run_state import differing_setting

if TYPE_CHECKING:
    import optuna

STUDY, CONFIG, RESULTS = "study.log", "search.json", "trials.json"
BEST_SIZES, BEST_MODEL = "best.json", "best.safetensors"
#: Shares of a size that are tried; of blocks and layers, every number is tried.
SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
#: Size -> its smallest share that is tried.
LEAST_SHARE = {"width": 0.5, "anchors": 0.25, "short_side": 0.5, "ff": 0.25}


@dataclass(frozen=True)
class Candidate:
    """One architecture that was tried.

    Attributes:
        sizes: of the model.
        milliseconds: an image.
        quality: 0..1, higher is better; None if it takes longer than the budget, since it is then not measured.
    """

    sizes: Architecture
    milliseconds: float
    quality: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {"sizes": self.sizes.to_dict(), "milliseconds": self.milliseconds, "quality": self.quality}


class Bench(Protocol):
    """Builds and measures candidates, so that the search itself needs no images."""

    def build(self, sizes: Architecture, /) -> Detector:
        """A detector of these sizes."""

    def milliseconds(self, detector: Detector, /) -> float:
        """Time of an image."""

    def improve(self, detector: Detector, /) -> None:
        """Train a candidate a little, in place, or leave it."""

    def quality(self, detector: Detector, /) -> float:
        """0..1, higher is better."""


def choices(base: Architecture) -> dict[str, tuple[int, ...]]:
    """Size -> the values to try, largest first."""
    found: dict[str, tuple[int, ...]] = {}
    for name, size in base.numbers().items():
        if name not in LEAST_SHARE:
            found[name] = tuple(range(size, 0, -1))
            continue
        step = {"width": 2, "short_side": 32}.get(name, 1)
        least = LEAST_SIDE if name == "short_side" else step
        values = {max(least, round(size * share / step) * step) for share in SHARES if share >= LEAST_SHARE[name]}
        found[name] = tuple(sorted({size, *(value for value in values if value <= size)}, reverse=True))
    return found


def sizes_of(values: Mapping[str, int], base: Architecture) -> Architecture:
    """The architecture of one value for every name of `choices`."""
    first, second, third, fourth = (values[f"layer{stage}"] for stage in range(1, 5))
    plain = {name: value for name, value in values.items() if not name.startswith("layer")}
    return replace(base, layers=(first, second, third, fourth), **plain)


def search(
    whole: Candidate,
    bench: Bench,
    *,
    budget_ms: float,
    trials: int,
    run_dir: Path,
    config: Mapping[str, Any],
    seed: int = 0,
    on_trial: Callable[[int, Candidate], None] | None = None,
) -> list[Candidate]:
    """Try `trials` architectures in total, earlier calls included, and keep the best within the budget.

    Optuna's tree-structured Parzen estimator (Bergstra et al., 2011) proposes; a candidate over the budget is not
    evaluated. Writes to `run_dir`: the study (`study.log`), `trials.json` and, of the best candidate so far,
    `best.json` (sizes) and `best.safetensors`. A candidate that is neither faster than the whole model nor better is
    never the best. Call it again to resume after a stop.

    Args:
        whole: the model to shrink, measured on the same bench.
        bench: makes and measures candidates.
        budget_ms: allowed time per image.
        trials: architectures in all.
        run_dir: made if missing.
        config: what the search is made of; a folder of another is refused.
        seed: of the proposals.
        on_trial: called with (number from 1, candidate) after each trial.

    Returns:
        All candidates, in order of their trials.

    Raises:
        ModelError: the smallest architecture takes longer than the budget, or the folder is of another search.
        MissingExtraError: without the extra `search-arch`.
    """
    base = whole.sizes
    space = choices(base)
    content = {**config, "budget_ms": budget_ms, "seed": seed, "space": {k: list(v) for k, v in space.items()}}
    if not _is_begun(run_dir, content):
        _check_budget(bench, sizes_of({name: values[-1] for name, values in space.items()}, base), budget_ms)
        write_json(run_dir / CONFIG, content)
    study = _open(run_dir / STUDY, seed)
    from optuna.trial import TrialState  # here, where it is sure that the extra is installed

    if not study.trials:
        # Smaller images alone come first: they cost nothing to make, so that a search has to beat them.
        for index in range(1, len(space["short_side"])):
            study.enqueue_trial({**dict.fromkeys(space, 0), "short_side": index})
    known = {candidate.sizes: candidate for candidate in _finished(study, base)}
    while len(done := list(_finished(study, base))) < trials:
        trial = study.ask()
        drawn = {name: values[trial.suggest_int(name, 0, len(values) - 1)] for name, values in space.items()}
        sizes = sizes_of(drawn, base)
        if sizes not in known:
            known[sizes] = _try(bench, sizes, budget_ms, run_dir, whole=whole, before=known.values())
        candidate = known[sizes]
        trial.set_user_attr("milliseconds", candidate.milliseconds)
        study.tell(trial, candidate.quality, state=TrialState.PRUNED if candidate.quality is None else None)
        write_json(run_dir / RESULTS, [one.to_dict() for one in _finished(study, base)])
        if on_trial is not None:
            on_trial(len(done) + 1, candidate)
    chosen = best(done, whole)
    if chosen is not None and not _is_written(chosen, run_dir):  # after a stop between measuring and writing
        detector = bench.build(chosen.sizes)
        bench.improve(detector)
        _write(detector, chosen, run_dir)
    return done


def _check_budget(bench: Bench, smallest: Architecture, budget_ms: float) -> None:
    """Raise ModelError if even the smallest architecture takes longer than the budget."""
    least = bench.milliseconds(bench.build(smallest))
    if least > budget_ms:
        raise ModelError(
            f"budget: expected at least the {least:.1f} ms an image of the smallest architecture, got "
            f"{budget_ms:g}; allow more time or start from a smaller model"
        )


def _try(
    bench: Bench, sizes: Architecture, budget_ms: float, run_dir: Path, *, whole: Candidate, before: Iterable[Candidate]
) -> Candidate:
    """Build and measure a candidate; the best one so far is written."""
    detector = bench.build(sizes)
    took = bench.milliseconds(detector)
    if took > budget_ms:
        return Candidate(sizes, took, None)
    bench.improve(detector)
    candidate = Candidate(sizes, took, bench.quality(detector))
    if best([*before, candidate], whole) is candidate:
        _write(detector, candidate, run_dir)
    return candidate


def _write(detector: Detector, candidate: Candidate, run_dir: Path) -> None:
    detector.save(run_dir / BEST_MODEL)
    write_json(run_dir / BEST_SIZES, candidate.sizes.to_dict())


def _is_written(candidate: Candidate, run_dir: Path) -> bool:
    path = run_dir / BEST_SIZES
    return path.exists() and read_architecture(path, candidate.sizes) == candidate.sizes


def worthwhile(candidates: Iterable[Candidate], whole: Candidate) -> list[Candidate]:
    """Those within the budget that are faster than the whole model, or better."""
    assert whole.quality is not None
    return [
        one
        for one in candidates
        if one.quality is not None and (one.milliseconds < whole.milliseconds or one.quality > whole.quality)
    ]


def best(candidates: Iterable[Candidate], whole: Candidate) -> Candidate | None:
    """The best that is worthwhile, of equally good ones the fastest; None if none is."""
    return max(worthwhile(candidates, whole), key=lambda one: (one.quality or 0.0, -one.milliseconds), default=None)


def pareto_front(candidates: Sequence[Candidate], whole: Candidate) -> list[Candidate]:
    """The Pareto front of time and quality of those that are worthwhile, fastest first, without duplicates."""
    front: list[Candidate] = []
    for one in sorted(worthwhile(candidates, whole), key=lambda one: (one.milliseconds, -(one.quality or 0.0))):
        if not front or (one.quality or 0.0) > (front[-1].quality or 0.0):
            front.append(one)
    return front


def _is_begun(run_dir: Path, config: Mapping[str, Any]) -> bool:
    """Whether the folder holds this search; raises ModelError where it holds another."""
    path = run_dir / CONFIG
    if not path.exists():
        return False
    if differing := differing_setting(path, config):
        raise ModelError(f"{run_dir} is a search of another configuration: {differing}; use another run folder")
    return True


def check_optuna() -> None:
    """Raise MissingExtraError where the package that proposes the architectures is not installed."""
    with needs_extra("cora search-arch", extra="search-arch"):
        import optuna  # noqa: F401


def _open(path: Path, seed: int) -> optuna.Study:
    check_optuna()
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(study_name="search", storage=storage, direction="maximize", load_if_exists=True)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its search was stopped
    # A resumed search must not draw again what the first part of it drew.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), multivariate=True, n_startup_trials=8)
    return study


def _finished(study: optuna.Study, base: Architecture) -> Iterator[Candidate]:
    from optuna.trial import TrialState

    space = choices(base)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        sizes = sizes_of({name: values[trial.params[name]] for name, values in space.items()}, base)
        yield Candidate(sizes, trial.user_attrs["milliseconds"], trial.value)
