"""What `cora distill` does: teacher and student, the run, measuring before and after, the model file."""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import cora
from cora.apps.files import find_images
from cora.apps.held_out import check_extras
from cora.apps.open_model import open_torch_detector
from cora.apps.prune_report import check_model_file, draw_pictures, measure, names_for, print_table, read_measured
from cora.compress.arch_sizes import Architecture, read_architecture
from cora.compress.distill import DistillRun, distill, new_student
from cora.console import output_console, say
from cora.detector import Detector
from cora.errors import ModelError
from cora.files import write_json
from cora.towers import known_towers, resnet_of
from cora.training.distill_task import DistillConfig

MODEL = "model.safetensors"


def distill_model(args: argparse.Namespace) -> int:
    """Teach a student; prints a table of teacher, student before and after; returns 0.

    Raises:
        CoraError: bad input, before anything is written; or a run that cannot go on.
    """
    check_extras("cora distill", measures=False)
    output = args.output or args.run_dir / MODEL
    check_model_file(output)
    held_out = read_measured(args)
    paths = sorted(find_images([str(args.images)]).paths)
    pictures = draw_pictures(args.images, args.photos, args.seed)
    # A CLIP tower by name has a localizer of random weights: nothing can be learned from its boxes.
    localizes = args.teacher not in known_towers()
    config = DistillConfig(
        tower=args.learn != "localizer",
        localizer=args.learn != "tower",
        boxes=args.boxes,
        kl=args.kl_weight,
        cosine=args.cosine_weight,
        box=args.box_weight,
        regions=args.regions,
    )
    if config.localizer and not localizes:
        raise ModelError(f"{args.teacher}: expected a model with a trained localizer, got a tower; use --learn tower")
    teacher = open_torch_detector(args.teacher, args.device, needs="cora distill", trained=False)
    student = _student(args, teacher)
    if config.tower:
        resnet_of(student.image_tower, "cora distill, into the tower")
    names = names_for(args, held_out.dataset.class_names if held_out is not None else None)
    untaught = copy.deepcopy(student)
    console = output_console()
    say(console, f"Distilling on {len(paths)} images, {len(names)} names")
    result = distill(
        student=student,
        teacher=teacher,
        localizes=localizes,
        paths=paths,
        names=names,
        run_dir=args.run_dir,
        config=config,
        run=DistillRun(epochs=args.epochs, batch=args.batch, lr=args.lr, seed=args.seed, workers=args.workers),
    )
    if result.interrupted:
        raise KeyboardInterrupt(f"at step {result.steps}, which is saved; the same command goes on")
    student.save(output)
    columns = measure({"teacher": teacher, "student before": untaught, "student": student}, pictures, names, held_out)
    print_table(console, columns)
    if args.json is not None:
        content = {"command": ["cora", *sys.argv[1:]], "version": cora.__version__, "steps": result.steps}
        write_json(args.json, {**content, "models": {key: value.to_dict() for key, value in columns.items()}})
    say(console, f"Wrote {output}")
    return 0


def _student(args: argparse.Namespace, teacher: Detector) -> Detector:
    if args.student is not None:
        return open_torch_detector(args.student, args.device, needs="cora distill", trained=False)
    resnet_of(teacher.image_tower, "cora distill --architecture")
    sizes = read_architecture(Path(args.architecture), Architecture.of(teacher.config))
    return new_student(teacher, sizes, seed=args.seed)
