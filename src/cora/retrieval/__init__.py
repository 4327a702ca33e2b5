"""Search: finds regions in a folder of images by words or by an image."""

from cora.retrieval.index import Hit, RegionIndex
from cora.retrieval.manifest import RegionSettings, RetrievalError
from cora.retrieval.update import UpdateReport

__all__ = ["Hit", "RegionIndex", "RegionSettings", "RetrievalError", "UpdateReport"]
