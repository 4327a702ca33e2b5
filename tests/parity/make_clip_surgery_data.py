"""Makes `data/clip_surgery.xz` from the folder of published numbers.

python -m tests.parity.make_clip_surgery_data FOLDER

Of the maps, which bilinear upsampling made from a few patches, every second pixel is kept.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.parity.archive import read_archive, write_archive
from tests.parity.toy import DATA

FILE = DATA / "clip_surgery.xz"
MAPS = "map_bhwt"
RESNET_IMAGE, SAME_IMAGE = "resnet.square.image", "vit.square.image"


def main(folder: Path) -> None:
    tensors = {f"weights.{name}": value for name, value in load_file(folder / "weights_fp16.safetensors").items()}
    expected = load_file(folder / "expected.safetensors")
    assert torch.equal(expected.pop(RESNET_IMAGE), expected[SAME_IMAGE])
    for name, value in expected.items():
        tensors[f"expected.{name}"] = value[:, ::2, ::2].contiguous() if name.endswith(MAPS) else value
    write_archive(FILE, tensors)
    assert all(torch.equal(value, tensors[name]) for name, value in read_archive(FILE).items())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
