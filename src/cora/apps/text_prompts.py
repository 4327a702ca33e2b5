"""`cora text-prompts`: learn class texts on base boxes, and measure what that changes for base and novel classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive, seed_number
from cora.apps.command import Command
from cora.apps.model_options import device_option, model_option
from cora.apps.options import option
from cora.errors import CoraError

if TYPE_CHECKING:
    from torch import Tensor

    from cora.data.class_split import ClassSplit
    from cora.evaluation.region_change import RegionChange
    from cora.training.region_embeddings import RegionEmbeddings


@dataclass(frozen=True, kw_only=True)
class TextPromptsOptions:
    """Options of `cora text-prompts`."""

    method: Literal["context", "offsets", "tower"] = option(
        required=True,
        help="context: vectors before the name; offsets: a residual on class embeddings; tower: fine-tune the last "
        "blocks of the text tower",
    )
    images: Path = option(required=True, metavar="DIR", help="folder of the images to learn from")
    annotations: Path = option(required=True, help="their COCO annotation file")
    split: str | None = option(
        metavar="FILE",
        help='"coco", "lvis", or JSON with the lists "base", which are learned from, and "novel" '
        "(default: all classes are base)",
    )
    val_images: Path | None = option(metavar="DIR", help="folder of the images to measure on")
    val_annotations: Path | None = option(help="their COCO annotation file (default: nothing is measured)")
    model: str = model_option("name or path of the model")
    output: Path = option(required=True, writes=kinds.TEXT, help="what was learned (.safetensors)")
    save_model: Path | None = option(writes=kinds.MODEL, help="also write the whole model with it")
    cache: Path | None = option(
        writes=kinds.EMBEDDINGS, metavar="DIR", help="keep the embeddings of the boxes there for the next run"
    )
    run_dir: Path | None = option(
        "--run", writes=kinds.RUN, metavar="DIR", help="keep metrics there, and go on where a run stopped"
    )
    epochs: int | None = option(type=positive, help="passes over the boxes (default: the method's)")
    lr: float | None = option(type=above_zero, metavar="RATE", help="learning rate (default: the method's)")
    keep: float | None = option(
        type=above_zero,
        metavar="FACTOR",
        help="how strongly embeddings are held near those of the hand-written sentences (default: the method's)",
    )
    context: str | None = option(
        metavar="TEXT",
        help="words that the context starts from (default: those before the name of the model's only template, or "
        "'a photo of a')",
    )
    layers: int | None = option(type=positive, help="blocks of the tower that learn (default: 1)")
    seed: int = option(type=seed_number, default=0, help="seed of all random numbers (default: %(default)s)")
    resamples: int = option(type=positive, default=200, help="bootstrap resamples (default: %(default)s)")
    device: str = device_option()

    def given(self) -> dict[str, Any]:
        """The method's settings that the options change.

        Raises:
            CoraError: an option of another method.
        """
        for value, name, method in ((self.context, "context", "context"), (self.layers, "layers", "tower")):
            if value is not None and self.method != method:
                raise CoraError(f"--{name}: expected with --method {method}, got --method {self.method}; leave it out")
        named = {"epochs": self.epochs, "lr": self.lr, "keep": self.keep, "seed": self.seed}
        return {name: value for name, value in named.items() if value is not None}


def run(options: TextPromptsOptions) -> int:
    """Learn, measure before and after, write; returns the exit code 0.

    Raises:
        CoraError: bad input.
        KeyboardInterrupt: a signal stopped the training; nothing is written but the run folder.
    """
    import sys
    import tempfile

    import torch

    import cora
    from cora.console import counted, output_console
    from cora.data.benchmarks import testing_images, training_images
    from cora.data.class_split import ClassSplit, open_split
    from cora.data.read import read_dataset, read_held_out
    from cora.detector.checkpoint import check_model_file
    from cora.evaluation.tables import change_table
    from cora.predictor.device import pick_device
    from cora.training.region_embeddings import embed_dataset
    from cora.training.text_training import DEFAULTS, build_text_task, kept_names, train_text

    given = options.given()
    if options.save_model is not None:
        check_model_file(options.save_model)
    device = pick_device(options.device)
    split = None if options.split is None else open_split(options.split)
    train_set = read_dataset(
        images=options.images, annotations=options.annotations, class_names=None if split is None else split.base
    )
    train_set = training_images(train_set, split)
    split = split or ClassSplit(base=train_set.class_names)
    val_set = read_held_out(options.val_images, options.val_annotations, split.all)
    if val_set is not None:
        val_set = testing_images(val_set, split)
    config = replace(DEFAULTS[options.method], **given)
    detector = cora.load(options.model).detector.to(device)
    before = detector.vocabulary_encoder.encode(split.all).embeddings.cpu()  # names too long for the tower fail here
    data = embed_dataset(detector, train_set, options.cache, "train")
    torch.manual_seed(options.seed)
    built: dict[str, Any] = {"context": options.context, "layers": options.layers or 1}
    task = build_text_task(
        options.method, detector=detector, data=data, kept_names=kept_names(split), config=config, **built
    ).to(device)
    with tempfile.TemporaryDirectory() as scratch:
        result = train_text(task, data, config, options.run_dir or Path(scratch), built=built)
    if result.interrupted:
        hint = "name a --run folder to go on another time"
        if options.run_dir is not None:
            hint = f"the same command goes on from {options.run_dir}"
        raise KeyboardInterrupt(f"at step {result.steps}, nothing written; {hint}")
    artefact = task.eval().artefact({"command": " ".join(["cora", *sys.argv[1:]]), "boxes": str(len(data))})
    artefact.apply(detector)
    after = detector.vocabulary_encoder.encode(split.all).embeddings.cpu()
    artefact.write(options.output)
    if options.save_model is not None:
        detector.save(options.save_model)
    out = output_console()
    if val_set is not None:
        measured = embed_dataset(detector, val_set, options.cache, "val")
        changes = measure_change(measured, split, before, after, resamples=options.resamples)
        out.print(change_table(changes, f"{options.method}: boxes named right among {len(split.all)} classes, %"))
    files = ", ".join(str(path) for path in (options.output, options.save_model) if path is not None)
    learned = f"{counted(len(data), 'box')} of {counted(len(split.base), 'class')}"
    out.print(f"Learned from {learned}; written: {files}", soft_wrap=True)
    return 0


def measure_change(
    data: RegionEmbeddings, split: ClassSplit, before: Tensor, after: Tensor, *, resamples: int = 200
) -> dict[str, RegionChange]:
    """Change of top-1 accuracy in each group (novel, base, all), while all classes of the split compete.

    Args:
        data: regions to name.
        split: its classes.
        before: [C, D] embeddings of all classes of the split.
        after: [C, D], the learned ones.
        resamples: of the images, for the intervals.
    """
    from cora.evaluation.base_novel import class_groups
    from cora.evaluation.bootstrap import resample_counts
    from cora.evaluation.region_change import region_change

    counts = resample_counts(data.images, resamples=resamples)
    return {
        group: region_change(
            regions=data.regions,
            labels=data.labels,
            image_index=data.image_index,
            before=before,
            after=after,
            class_names=split.all,
            chosen=members,
            counts=counts,
        )
        for group, members in class_groups(split.base, split.novel).items()
        if members
    }


COMMAND = Command(
    name="text-prompts",
    options=TextPromptsOptions,
    run=run,
    help="learn the text side on base boxes",
    description="Learn the text side on base boxes: a context, offsets of class embeddings, or the text tower.",
)
