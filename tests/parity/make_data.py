"""Makes `data/` from the folder of published numbers: python -m tests.parity.make_data FOLDER

Left out of the weights: modules that the published state dict holds twice, and the rows of the token table
that no text of the tests uses. `toy.py` puts both back.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from cora.regions import IMAGENET_TEMPLATES
from cora.towers import byte_pair_tokenizer
from tests.parity.archive import read_archive, write_archive
from tests.parity.toy import DATA, REPEATED, TOKENS


def main(folder: Path) -> None:
    DATA.mkdir(exist_ok=True)
    weights = load_file(folder / "checkpoint_fp16.safetensors")
    for copy, original in REPEATED:
        for name in [name for name in weights if name.startswith(copy)]:
            assert torch.equal(weights[name], weights[original + name.removeprefix(copy)]), name
            del weights[name]
    tokenizer = byte_pair_tokenizer(49408)
    used = {tokenizer.sot_token_id, tokenizer.eot_token_id, 0}
    for name in json.loads((folder / "meta.json").read_text())["categories"]:
        for template in IMAGENET_TEMPLATES:
            used.update(tokenizer.encode(template.format(name)))
    rows = torch.tensor(sorted(used))
    weights[f"{TOKENS}.rows"] = rows
    weights[TOKENS] = weights[TOKENS][rows]
    write_archive(DATA / "weights.xz", weights)

    numbers = load_file(folder / "expected.safetensors")
    for name, value in load_file(folder / "inputs.safetensors").items():
        assert torch.equal(value.half().float(), value), name
        numbers[f"inputs.{name}"] = value.half()
    write_archive(DATA / "numbers.xz", numbers)
    assert all(torch.equal(value, numbers[name]) for name, value in read_archive(DATA / "numbers.xz").items())
    shutil.copyfile(folder / "meta.json", DATA / "meta.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
