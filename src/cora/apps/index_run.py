"""`cora index`: a folder of images in, an index of its regions out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from cora.apps.competing import tell_distractors
from cora.apps.model_options import read_classes
from cora.apps.open_model import open_torch_detector
from cora.console import error_console, output_console, report, say, tracked
from cora.data.class_split import known_split
from cora.names import spoken_name
from cora.regions import by_themselves, class_prompts, other_prompts, written_classes
from cora.retrieval import RegionIndex, RegionSettings, UpdateReport
from cora.retrieval.manifest import MANIFEST
from cora.retrieval.update import list_pictures, no_pictures

_SHOWN_PROBLEMS = 20


def index(
    *,
    folder: Path,
    db: Path,
    classes: str | None,
    score: float | None,
    regions: int | None,
    rehash: bool,
    model: str | None,
    device: str,
) -> int:
    """Make an index or bring it up to date, and say what was done.

    Args:
        folder: of the images.
        db: folder of the index.
        classes: names divided by commas, @FILE, "lvis"; None for whatever looks like an object.
        score: least score of a region; None for the index's, or the default.
        regions: most regions of an image; None likewise.
        rehash: hash every file.
        model: name or file; None for the index's, or "nano".
        device: name of a torch device, or "auto".

    Returns:
        Exit code: 0, or 1 if some images could not be read.

    Raises:
        CoraError: bad input.
    """
    given = _given(classes, score, regions)
    if not list_pictures(folder):
        raise no_pictures(folder)
    before = RegionIndex.open(db) if (db / MANIFEST).exists() else None
    # An index without a region yet is empty, hence false, but there.
    settings = replace(RegionSettings() if before is None else before.settings, **given)
    name = model or ("nano" if before is None else before.model_name)
    detector = open_torch_detector(name, device, needs="cora index")
    if settings.classes is not None:
        asked = class_prompts(settings.classes)
        tell_distractors(detector, (*asked, *other_prompts(asked)), None, switch="the model's own choice")
    errors = error_console()
    try:
        made, done = RegionIndex.build(
            db,
            folder,
            detector,
            settings=settings,
            model_name=str(Path(name).resolve()) if Path(name).is_file() else name,
            rehash=rehash,
            progress=lambda files: tracked(files, "indexing"),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("; what is done is kept, the same command goes on") from None
    for problem in done.problems[:_SHOWN_PROBLEMS]:
        report(errors, problem)
    if done.problems:
        report(errors, f"{len(done.problems)} of the images could not be read", "warning")
    summary = f"{_told(done)} {len(made)} regions are in {db}."
    say(output_console(), summary)
    return 1 if done.problems else 0


def _given(classes: str | None, score: float | None, regions: int | None) -> dict[str, Any]:
    """The settings that were named."""
    given: dict[str, Any] = {}
    if classes is not None:
        # LVIS writes remote_control; people and models know words.
        lvis = [spoken_name(name) for name in known_split("lvis").all] if classes == "lvis" else None
        given["classes"] = written_classes(by_themselves(lvis) if lvis else read_classes(classes))
    if score is not None:
        given["score"] = score
    if regions is not None:
        given["max_regions"] = regions
    return given


def _told(done: UpdateReport) -> str:
    counts = {
        "added": done.added,
        "changed": done.changed,
        "removed": done.removed,
        "unchanged": done.unchanged,
        "with the content of another": done.twice,
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"Images: {told or 'none'}."
