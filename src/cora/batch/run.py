"""Runs a batch: detects in the parts that are missing, then writes all labels from the results of all parts."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Self

from cora.batch.engines import Done, OnProgress, in_processes, in_this_process, on_ray
from cora.batch.job import Job, open_job
from cora.batch.labeller import Model, OpenModel, Work
from cora.batch.photos import place_photo
from cora.batch.result_folder import ResultFolder
from cora.batch.review import ReviewList, draw_sheet
from cora.batch.settings import DetectSettings, ExportSettings
from cora.batch.writers import load_pyarrow, open_writer
from cora.console import IS, WAS, Bars, counted
from cora.errors import DataError

Engine = Literal["local", "ray"]

UNREADABLE = "unreadable.csv"

#: Reasons and classes that a report shows; the files have all of them.
_SHOWN, _SHOWN_CLASSES = 5, 10
_QUALITY = 88


@dataclass(kw_only=True)
class BatchReport:
    """The counts of a batch, and what it wrote.

    Attributes:
        pictures: number of images of the inputs, each counted once.
        earlier: how many of them an earlier run had done.
        unreadable: number of images that could not be read; `unreadable.csv` has their names and the reasons.
        first_unreadable: reasons of the first few of them.
        boxes: class name -> number of labels.
        reviewed: number of boxes on the review list.
        root: folder that file names are relative to, where images are neither linked nor copied.
        written: paths of the results.
    """

    pictures: int = 0
    earlier: int = 0
    unreadable: int = 0
    first_unreadable: list[str] = field(default_factory=list)
    boxes: Counter[str] = field(default_factory=Counter)
    reviewed: int = 0
    root: Path = Path()
    written: list[Path] = field(default_factory=list)

    def lines(self, export: ExportSettings, *, resumed: bool) -> Iterator[str]:
        """The report in words; with `resumed`, it begins with the number of images that an earlier run had done."""
        if resumed:
            yield f"{self.earlier} of {counted(self.pictures, 'image', WAS)} done by an earlier run."
        total, readable = sum(self.boxes.values()), self.pictures - self.unreadable
        named = [f"{name} {count}" for name, count in self.boxes.most_common(_SHOWN_CLASSES)]
        more = f", and {len(self.boxes) - _SHOWN_CLASSES} more classes" if len(self.boxes) > _SHOWN_CLASSES else ""
        of = f": {', '.join(named)}{more}" if named else ""
        yield f"{counted(total, 'box')} in {counted(readable, 'image')}{of}."
        if not total and readable:
            yield f"No box has a score of {export.thresholds.usual:g} or more; try a lower --score."
        if export.review:
            yield f"{counted(self.reviewed, 'box', IS)} on the review list."
        yield f"Written: {', '.join(map(str, self.written))}."
        if export.photos == "none":
            yield f"File names are relative to {self.root}."


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Callbacks that follow the progress of a batch.

    Attributes:
        begin: called once, with the number of images and of those that an earlier run had done.
        detecting: called with the number of images that were detected since its last call.
        writing: called with the number of images whose results were written since its last call.
    """

    begin: Callable[[int, int], object] = lambda count, earlier: None
    detecting: OnProgress = lambda more: None
    writing: OnProgress = lambda more: None

    @classmethod
    def on(cls, bars: Bars) -> Watch:
        """Callbacks that show detecting and writing on bars."""
        count = earlier = 0
        done = {"detecting": 0, "writing": 0}

        def begin(images: int, before: int) -> None:
            nonlocal count, earlier
            count, earlier = images, before
            add("detecting", before)

        def add(title: str, more: int) -> None:
            done[title] += more
            bars.update(title, done[title], count, earlier=earlier if title == "detecting" else 0)

        return cls(begin=begin, detecting=partial(add, "detecting"), writing=partial(add, "writing"))


def run_batch(
    sources: Sequence[str],
    *,
    folder: Path,
    settings: DetectSettings,
    open_model: OpenModel,
    export: ExportSettings | None = None,
    model: Model | None = None,
    engine: Engine = "local",
    processes: int = 1,
    gpus: float = 0.0,
    watch: Watch | None = None,
) -> BatchReport:
    """Label many images, each exactly once; the same call again resumes a run that was stopped.

    Args:
        sources: folders, images, shards (`*.tar`) and lists (`@FILE` with a path a line).
        folder: folder of the results: new, empty, or that of an earlier run with the same inputs and settings.
        settings: class names, and everything else that the boxes depend on.
        open_model: loads the model in a worker; a function of a module, since other processes must find it.
        export: format of the annotations, and what is written beside them; may differ from that of an earlier run.
        model: the model, if it is loaded already; used where this process computes.
        engine: "local" for this machine, "ray" for Ray Data.
        processes: number of workers.
        gpus: GPUs, or the share of one, for each worker of Ray.
        watch: follows the progress.

    Returns:
        Counts of images and boxes, and the paths of what was written.

    Raises:
        CoraError: the inputs, the folder, the settings or the machine do not allow the run.
    """
    export, watch = export or ExportSettings(), watch or Watch()
    check_export(settings, export)
    with open_job(folder, sources, settings) as job:
        missing = job.missing()
        todo = sum(map(job.size_of, missing))
        report = BatchReport(pictures=job.count, earlier=job.count - todo, root=job.root)
        watch.begin(job.count, report.earlier)
        work = Work(open_model=open_model, settings=job.settings, root=job.root)
        for part, lines in _results(job, work, missing, engine, processes, gpus, model, watch.detecting):
            job.save(part, lines)
        write_results(job, export, report, watch.writing)
    return report


def check_export(settings: DetectSettings, export: ExportSettings) -> None:
    """Check before any work that the results can be exported.

    Raises:
        DataError: the thresholds need scores that are not kept, or name unknown classes.
        MissingExtraError: the format needs a package that is not installed.
    """
    needed = export.lowest_score(settings.classes)
    if settings.keep > needed:
        raise DataError(
            f"expected to keep scores of {needed:g} or more, which the thresholds and the review list need, got "
            f"{settings.keep:g}; keep lower ones, or raise the thresholds"
        )
    if export.format == "parquet":
        load_pyarrow()


def write_results(
    job: Job, export: ExportSettings, report: BatchReport, on_progress: OnProgress = lambda more: None
) -> None:
    """Write the labels, the review list and the list of unreadable images of a finished batch; fills in the report.

    Raises:
        DataError: a part is missing or damaged.
        CoraError: a file cannot be written.
    """
    classes = job.settings.classes
    thresholds = export.thresholds.of(classes)
    with ExitStack() as stack:
        writer = stack.enter_context(open_writer(export.format, job.folder, classes))
        review = stack.enter_context(ReviewList(classes=classes, thresholds=thresholds, settings=export.review))
        unreadable = stack.enter_context(_Unreadable())
        for item, record in job.results():
            on_progress(1)
            if record.error:
                unreadable.add(item.name, record.error)
                continue
            labels = [box for box in record.boxes if box.score >= thresholds[box.label]]
            file_name = item.name if export.photos == "none" else item.target
            if export.photos != "none":
                place_photo(item, root=job.root, folder=job.folder, within=writer.photo_folder, how=export.photos)
            writer.add(item, file_name, record.size, labels)
            review.add(item.number, file_name, record.boxes)
            report.boxes.update(classes[box.label] for box in labels)
        report.written = writer.finish()
        report.unreadable, report.first_unreadable = unreadable.count, unreadable.first
        report.reviewed = review.count
        report.written += unreadable.finish(job.folder) + _write_review(job, export, review)


class _Unreadable:
    """The list of images that could not be read; bytes of names that are not UTF-8 are written as escapes."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
        self._table = csv.writer(self._file)
        self._table.writerow(("file", "reason"))
        self.count, self.first = 0, list[str]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str, reason: str) -> None:
        self._table.writerow((name, reason))
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(reason)

    def finish(self, folder: ResultFolder) -> list[Path]:
        """Write the list; if it is empty, remove that of an earlier run."""
        if not self.count:
            folder.remove(UNREADABLE)
            return []

        def fill(path: Path) -> None:
            with path.open("w", encoding="utf-8", newline="") as file:
                self._file.seek(0)
                shutil.copyfileobj(self._file, file)

        return [folder.write(UNREADABLE, fill)]


def _write_review(job: Job, export: ExportSettings, review: ReviewList) -> list[Path]:
    """Write the review list and its sheet; those of an earlier run are removed, since its thresholds may differ."""
    job.folder.remove("review/boxes.csv", "review/boxes.json", "review/sheet.jpg")
    if not export.review:
        return []
    written = [review.write(job.folder)]
    if rows := list(review.rows(export.review.sheet)):
        sheet = draw_sheet(rows, lambda number: job.item(number).read(job.root))
        save = partial(sheet.save, format="JPEG", quality=_QUALITY)
        written.append(job.folder.write("review/sheet.jpg", save))
    return written


def _results(
    job: Job,
    work: Work,
    missing: Sequence[int],
    engine: Engine,
    processes: int,
    gpus: float,
    model: Model | None,
    on_progress: OnProgress,
) -> Done:
    if not missing:
        return iter(())
    if engine == "ray":
        return on_ray(job, work, missing, count=processes, gpus=gpus, on_progress=on_progress)
    if processes > 1 and len(missing) > 1:
        return in_processes(job, work, missing, count=min(processes, len(missing)), on_progress=on_progress)
    return in_this_process(job, work, missing, model=model, on_progress=on_progress)
