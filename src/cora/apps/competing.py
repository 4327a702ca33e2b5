"""What commands say of names that compete with those asked for, where nobody asked for that."""

from __future__ import annotations

from collections.abc import Sequence

from cora.console import output_console, say
from cora.detector import Detector
from cora.predictor import Predictor, count_distractors

#: How the commands that have the option switch everyday names off.
SWITCH = "--distractors none switches them off"


def tell_distractors(
    detector: Predictor | Detector, names: Sequence[str], asked: Sequence[str] | None, *, switch: str = SWITCH
) -> None:
    """Print one line where the model's own choice lets other names compete; nothing where the user chose.

    Args:
        detector: the model.
        names: that are looked for.
        asked: the distractors of the command; None where nothing was said.
        switch: how they are switched off.
    """
    line = None if asked is not None else distractors_line(detector, names, switch=switch)
    if line is not None:
        say(output_console(), line)


def distractors_line(
    detector: Predictor | Detector, names: Sequence[str], *, switch: str = SWITCH, yours: str = "yours"
) -> str | None:
    """The line of `tell_distractors`; None where nothing competes. `yours`: what they compete with."""
    count = count_distractors(detector, names)
    if not count:
        return None
    if getattr(detector, "class_names", ()):
        kind, switch = "other", "they are part of the file; an export with --distractors none has none"
    else:
        kind = "everyday"
    plural = "name competes" if count == 1 else "names compete"
    return f"{count} {kind} {plural} with {yours} and are not reported ({switch})"
