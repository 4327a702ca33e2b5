"""The full chain on the kit's 1,101 COCO images, on a CPU: nano's towers, prompt and localizer trained anew.

    python recipes/nano_coco_mini.py --kit ../shared/kit --run runs/coco_mini

The same by the command line, with all its options:

    cora train all recipes/nano_coco_mini.py --images KIT/coco_ovd_mini/train --run runs/coco_mini \\
        --annotations KIT/coco_ovd_mini/train_base.json --split KIT/coco_ovd_mini/class_split.json

Towers are frozen, so their maps are made once and kept in the run folder, 3 for every image. The same command goes on
where it stopped.
Measured: of an earlier nano (commit ccbc669, 384 pixels) and its learned anchors, with `--set prompts.epochs=8 --set
localizer.epochs=2` (40 minutes of a busy CPU core, seed 0) 45 % of the boxes keep their class, regions of base / novel
classes named right 19.5 / 8.7 % (mean over classes), AP50 novel / base / all 1.0 / 0.4 / 0.5 on `val` after 550 steps
of the localizer. All 24 epochs were not run with this file; the shipped nano was made by `recipes/nano`, see its model
card.
"""

import argparse
import sys
from pathlib import Path

from cora.apps.cli import main
from cora.training.defaults import SMALL_PROMPTS, SMALL_TASK, small_augment
from cora.training.recipe import DataStage, LocalizerStage, RelabelStage, StageSchedule, TrainRecipe

#: Short side of nano's images of 4:3 in pixels.
SHORT_SIDE = 480


def recipe() -> TrainRecipe:
    """Prompts of 16 epochs, labels by the prompted classifier, a localizer of 24 epochs with helps for few images."""
    return TrainRecipe(
        model="nano",
        fresh=True,
        data=DataStage(augment=small_augment(SHORT_SIDE), versions=2),
        prompts=SMALL_PROMPTS,
        relabel=RelabelStage(plot=True),
        localizer=LocalizerStage(
            epochs=24,
            batch=4,
            lr=4e-4,
            schedule=StageSchedule(kind="cosine", warmup_steps=100),
            grad_clip=0.5,
            ema=0.998,
            task=SMALL_TASK,
        ),
        evaluate_every=24,
    )


def command(kit: Path, run: Path, *more: str) -> list[str]:
    """Arguments of `cora` for this recipe on the kit."""
    data = kit / "coco_ovd_mini"
    return [
        *("train", "all", __file__, "--run", str(run)),
        *("--images", str(data / "train"), "--annotations", str(data / "train_base.json")),
        *("--val-images", str(data / "val"), "--val-annotations", str(data / "val.json")),
        *("--split", str(data / "class_split.json")),
        *more,
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="folder that holds coco_ovd_mini")
    parser.add_argument("--run", type=Path, default=Path("runs/coco_mini"), help="folder of the run")
    known, rest = parser.parse_known_args()
    sys.exit(main(command(known.kit, known.run, *rest)))
