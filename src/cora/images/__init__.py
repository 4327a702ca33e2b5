"""Images in, batches out: every kind of source becomes upright RGB, and one pre-processor makes batches of it."""

from cora.images.batch import ImageBatch, Size
from cora.images.formats import IMAGE_SUFFIXES
from cora.images.preprocess import CLIP_MEAN, CLIP_STD, PreprocessConfig, Preprocessor
from cora.images.read import MAX_PIXELS, ImageSource, check_whole, read_image, read_size
from cora.images.web import MAX_DOWNLOAD_BYTES, download, is_url

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGE_SUFFIXES",
    "MAX_DOWNLOAD_BYTES",
    "MAX_PIXELS",
    "ImageBatch",
    "ImageSource",
    "PreprocessConfig",
    "Preprocessor",
    "Size",
    "check_whole",
    "download",
    "is_url",
    "read_image",
    "read_size",
]
