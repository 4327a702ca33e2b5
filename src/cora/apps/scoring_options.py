"""Options on how a detector scores: the precision of its tower, and whether every box is pooled exactly."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cora.predictor import Predictor


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """`--precision` and `--all-boxes`, for measuring: results that do not depend on the machine come first."""
    parser.add_argument(
        "--precision",
        choices=("float32", "auto", "bfloat16", "float16"),
        default="float32",
        help="of the image tower; auto is what `cora detect` uses: bfloat16 where it is faster (default: %(default)s)",
    )
    parser.add_argument(
        "--all-boxes", action="store_true", help="pool every box exactly: the published way, several times slower"
    )


@dataclass(frozen=True)
class Scoring:
    """precision: of the image tower; all_boxes: whether every box is pooled exactly, the published way."""

    precision: Any = "float32"
    all_boxes: bool = False

    def applied(self, predictor: Predictor) -> Predictor:
        """A predictor of the same weights that scores so."""
        from cora.detector.postprocess import ALL_BOXES
        from cora.predictor import TorchModel

        if not isinstance(predictor.model, TorchModel) and not self.all_boxes:
            return predictor  # the precision of an exported file is its own
        changes = ALL_BOXES if self.all_boxes else {}
        return predictor.with_postprocess(precision=self.precision, **changes)


def read_scoring(args: argparse.Namespace) -> Scoring:
    """What the options say."""
    return Scoring(precision=args.precision, all_boxes=args.all_boxes)
