"""Files in the layout of the published code, of any size: checkpoints of its main.py, CLIP archives, prompts."""

from __future__ import annotations

import argparse
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from cora.towers import TowerConfig, build_towers

#: Beginnings of names whose weights the published code does not train.
_FROZEN = ("backbone", "classifier")
#: CLIP's RN50, the size of the published checkpoint.
RN50 = TowerConfig()
#: The same layout at toy size; heads are 64 wide, as in every CLIP.
TOY = TowerConfig(layers=(1, 1, 2, 1), width=8, image_size=96, embed_dim=64, text_width=64, text_heads=1, text_layers=2)


@dataclass(frozen=True)
class Sizes:
    """Of a published localizer; the defaults are those of the released RN50 model."""

    tower: TowerConfig = RN50
    dim: int = 256
    ff: int = 1024
    encoder: int = 3
    decoder: int = 6
    queries: int = 1000
    bottleneck: int = 128


TOY_SIZES = Sizes(tower=TOY, dim=64, ff=48, encoder=2, decoder=3, queries=30, bottleneck=16)


def clip_weights(tower: TowerConfig, seed: int = 0) -> dict[str, Tensor]:
    """A CLIP ResNet under OpenAI's names: random numbers, in half precision as OpenAI's are."""
    torch.manual_seed(seed)
    image, text = build_towers(tower)
    weights: dict[str, Tensor] = {}
    for name, value in image.state_dict().items():
        if name.endswith("bn3.weight"):  # zero in a fresh tower: every image would look the same
            value = torch.full_like(value, 0.5)
        weights[name.replace("net.", "visual.", 1)] = value
    weights |= {name.removeprefix("net."): value for name, value in text.state_dict().items()}
    weights["logit_scale"] = torch.tensor(4.6052)
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def write_archive(weights: dict[str, Tensor], file: Path, *, resolution: int = 224) -> None:
    """A TorchScript archive with the tensors under their names, as OpenAI publishes them."""
    root = nn.Module()
    for name, value in {**weights, "input_resolution": torch.tensor(resolution)}.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(root).save(str(file))


def published_state(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of the published model: names written out here, numbers random, in float32."""
    state: dict[str, Tensor] = {}
    for name, value in clip_weights(sizes.tower, seed).items():
        if name.endswith("num_batches_tracked") or name == "logit_scale":
            continue  # frozen batch norms count nothing
        full = value.float()
        if name.startswith("visual.attnpool."):
            state["backbone.0.attn_pool." + name.removeprefix("visual.attnpool.")] = full
        elif name.startswith("visual."):
            state["backbone.0.body." + name.removeprefix("visual.")] = full
            if name.startswith("visual.layer4."):
                state["backbone.0." + name.removeprefix("visual.")] = full
        else:
            state["classifier." + name] = full
    state |= _localizer(sizes)
    return state


def main_checkpoint(sizes: Sizes, *, averaged: bool, seed: int = 0) -> dict[str, object]:
    """What the published main.py saves, random numbers; the averaged weights differ in everything that is learned."""
    state = published_state(sizes, seed)
    average = OrderedDict((name, value if name.startswith(_FROZEN) else value * 0.5) for name, value in state.items())
    return written_by_main(state, averaged=average if averaged else -1)


def written_by_main(state: Mapping[str, Tensor], *, averaged: object) -> dict[str, object]:
    """The complete layout that the published main.py saves, with an optimizer that has made a step.

    Args:
        state: of the model.
        averaged: what stands as `model_ema`: the averaged weights, or -1 where there are none.
    """
    learned = [nn.Parameter(value.float().clone()) for name, value in state.items() if not name.startswith(_FROZEN)]
    optimizer = torch.optim.AdamW([{"params": learned, "lr": 1e-4}, {"params": [], "lr": 0.0}], lr=1e-4)
    for parameter in learned:
        parameter.grad = torch.full_like(parameter, 1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 35)
    optimizer.step()
    schedule.step()
    args = argparse.Namespace(
        backbone="clip_RN50", batch_size=4, epochs=35, lr_drop=35, text_len=15, ovd=True, disable_init=True, lr=1e-4,
        region_prompt_path="logs/region_prompt_R50.pth", target_class_factor=8.0, model_ema=averaged != -1, gpu=0,
        lr_linear_proj_names=[], distributed=True, dist_url="env://", pe_temperature=20, masks=False,
    )  # fmt: skip
    return {
        "model": OrderedDict(state),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 34,
        "args": args,
        "best_performance": 0.351,
        "model_ema": averaged,
    }


def _localizer(sizes: Sizes) -> dict[str, Tensor]:
    d, ff, tower = sizes.dim, sizes.ff, sizes.tower
    state: dict[str, Tensor] = {}

    def linear(name: str, out: int, into: int) -> None:
        bound = into**-0.5
        state[f"{name}.weight"] = torch.empty(out, into).uniform_(-bound, bound)
        state[f"{name}.bias"] = torch.empty(out).uniform_(-bound, bound)

    def mlp(name: str, *widths: int) -> None:
        for number, (into, out) in enumerate(pairwise(widths)):
            linear(f"{name}.layers.{number}", out, into)

    def norms(name: str, *which: str) -> None:
        for one in which:
            state[f"{name}{one}.weight"] = torch.ones(d) + 0.1 * torch.randn(d)
            state[f"{name}{one}.bias"] = 0.1 * torch.randn(d)

    def feed_forward(name: str) -> None:
        linear(f"{name}.linear1", ff, d)
        linear(f"{name}.linear2", d, ff)
        state[f"{name}.activation.weight"] = torch.full((1,), 0.25)

    linear("input_proj.0.0", d, tower.width * 16)
    state["input_proj.0.0.weight"] = state["input_proj.0.0.weight"][..., None, None]
    state["query_embed.weight"] = torch.randn(sizes.queries, 4)
    linear("objectness_embed", 1, d)
    mlp("text_proj", tower.embed_dim, sizes.bottleneck, d)
    for layer in range(sizes.encoder):
        name = f"transformer.encoder.layers.{layer}"
        linear(f"{name}.self_attn.in_proj", 3 * d, d)
        for kind in ("weight", "bias"):
            state[f"{name}.self_attn.in_proj_{kind}"] = state.pop(f"{name}.self_attn.in_proj.{kind}")
        linear(f"{name}.self_attn.out_proj", d, d)
        feed_forward(name)
        norms(f"{name}.", "norm1", "norm2")
    mlp("transformer.encoder.query_scale", d, d, d)
    for layer in range(sizes.decoder):
        name = f"transformer.decoder.layers.{layer}"
        for part in ("sa_qcontent", "sa_kcontent", "sa_qpos", "sa_kpos", "sa_v"):
            linear(f"{name}.{part}_proj", d, d)
        first = ("ca_qpos",) if layer == 0 else ()
        for part in ("ca_qcontent", "ca_kcontent", *first, "ca_kpos", "ca_qpos_sine", "ca_v"):
            linear(f"{name}.{part}_proj", d, d)
        linear(f"{name}.self_attn.out_proj", d, d)
        linear(f"{name}.cross_attn.out_proj", d, d)
        feed_forward(name)
        norms(f"{name}.", "norm1", "norm2", "norm3")
        mlp(f"transformer.decoder.bbox_embed.{layer}", d, d, d, 4)
    norms("transformer.decoder.", "norm")
    mlp("transformer.decoder.query_scale", d, d, d)
    mlp("transformer.decoder.ref_point_head", 2 * d, d, d)
    mlp("transformer.decoder.ref_anchor_head", d, d, 2)
    state |= {
        name.removeprefix("transformer.decoder."): value for name, value in state.items() if ".bbox_embed." in name
    }
    return state
