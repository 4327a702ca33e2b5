"""Labels many images, each exactly once: in parts, in several processes, resumable.

Examples:
    >>> def open_nano(worker):
    ...     return cora.load("nano")
    >>> report = run_batch(
    ...     ["images"],
    ...     folder=Path("labels"),
    ...     settings=DetectSettings(classes=("cat", "cup"), keep=0.3),
    ...     open_model=open_nano,
    ...     export=ExportSettings(format="yolo"),
    ... )
    >>> report.pictures
    2
"""

from cora.batch.items import Item
from cora.batch.job import Job, kept_score, open_job
from cora.batch.labeller import Labeller, Model, OpenModel, Work
from cora.batch.records import Box, Record
from cora.batch.review import Uncertain
from cora.batch.run import BatchReport, Watch, check_export, run_batch, write_results
from cora.batch.settings import (
    DetectSettings,
    ExportSettings,
    Format,
    Photos,
    ReviewSettings,
    Thresholds,
    parse_thresholds,
)

__all__ = [
    "BatchReport",
    "Box",
    "DetectSettings",
    "ExportSettings",
    "Format",
    "Item",
    "Job",
    "Labeller",
    "Model",
    "OpenModel",
    "Photos",
    "Record",
    "ReviewSettings",
    "Thresholds",
    "Uncertain",
    "Watch",
    "Work",
    "check_export",
    "kept_score",
    "open_job",
    "parse_thresholds",
    "run_batch",
    "write_results",
]
