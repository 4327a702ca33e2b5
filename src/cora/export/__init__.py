"""Export of detectors for other runtimes, and a predictor for exported files (docs/export.md has an example)."""

from cora.export.manifest import ExportSettings, Manifest
from cora.export.runtime import ExportedDetector, load_exported
from cora.export.write import FORMATS, export_detector

__all__ = ["FORMATS", "ExportSettings", "ExportedDetector", "Manifest", "export_detector", "load_exported"]
