"""NanoDet-Plus-m from ncnn's files gives what ncnn gives."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cora.towers.nanodet import NanoDet
from recipes.nano.ncnn_weights import load_nanodet

FILE = "kit/coco_detector_teacher/nanodet_plus_m_fp16.ncnn.param"


@torch.no_grad()
def test_cells_of_all_levels() -> None:
    torch.manual_seed(0)
    net = NanoDet().eval()
    dense = net(torch.rand(2, 3, 96, 160) * 255)
    assert [tuple(level.shape) for level in dense.levels] == [
        (2, 96, 12, 20),
        (2, 96, 6, 10),
        (2, 96, 3, 5),
        (2, 96, 2, 3),
    ]
    assert dense.class_logits.shape == (2, 240 + 60 + 15 + 6, 80)
    assert dense.reach.shape == (2, 321, 4)
    again = net.apply_heads(dense.levels)
    torch.testing.assert_close(again.reach, dense.reach)


@pytest.mark.needs_shared
@torch.no_grad()
def test_numbers_are_ncnns(shared: Path) -> None:
    ncnn = pytest.importorskip("ncnn", reason="compares with ncnn, which is not installed")
    net = load_nanodet(shared / FILE)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 160, 3)).astype(np.float32)  # RGB
    dense = net(torch.from_numpy(pixels).permute(2, 0, 1)[None])

    original = ncnn.Net()
    original.opt.num_threads = 1
    original.opt.use_fp16_packed = original.opt.use_fp16_storage = original.opt.use_fp16_arithmetic = False
    original.opt.use_bf16_storage = False
    original.load_param(str(shared / FILE))
    original.load_model(str((shared / FILE).with_suffix(".bin")))
    planes = (pixels[:, :, ::-1] - [103.53, 116.28, 123.675]) * [0.017429, 0.017507, 0.017125]
    planes = np.ascontiguousarray(planes.astype(np.float32).transpose(2, 0, 1))
    extractor = original.create_extractor()
    extractor.input("in0", ncnn.Mat(planes).clone())
    rows = np.array(extractor.extract("out0")[1])
    rows = torch.from_numpy(rows.T if rows.shape[0] == 112 else rows)
    bins = rows[:, 80:].reshape(-1, 4, 8).softmax(-1)
    strides = torch.cat([torch.full((count, 1), float(s)) for count, s in ((240, 8), (60, 16), (15, 32), (6, 64))])
    torch.testing.assert_close(dense.class_logits[0], rows[:, :80], rtol=0, atol=0.02)
    torch.testing.assert_close(dense.reach[0], bins @ torch.arange(8.0) * strides, rtol=0, atol=0.5)
