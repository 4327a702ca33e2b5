"""Weights of CLIP by open_clip name and tag: from a cache of this machine, or fetched into it.

Whether the network answers is asked before anything is fetched: the libraries that fetch wait for minutes.
"""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from open_clip.pretrained import (
    HF_SAFE_WEIGHTS_NAME,
    HF_WEIGHTS_NAME,
    download_pretrained,
    get_pretrained_cfg,
    list_pretrained_tags_by_model,
)

from cora.errors import ModelError
from cora.towers.known import default_tag, known_towers

#: Seconds that an address has to answer in; all are asked at once.
PATIENCE = 5.0
_NAMES = (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)


def download_weights(name: str, tag: str) -> Path:
    """The file of a tag's weights, from a cache (OpenAI's, or Hugging Face's) or fetched into the latter.

    Raises:
        ModelError: the tag is unknown, or the download failed; the message says where it looked and which file to
            bring.
    """
    config = get_pretrained_cfg(name, tag)
    if not config:
        tags = ", ".join(list_pretrained_tags_by_model(name)) or "none"
        raise ModelError(
            f"tower {name!r} has no weights {tag!r}: expected one of {tags}, or the path of an existing weight file"
        )
    cached = cached_weights(config)
    if cached is not None:
        return cached
    addresses = _addresses(config)
    reachable, reason = _reachable([address for address, _ in addresses])
    for address, prefer_hub in addresses:
        if address not in reachable:
            continue
        try:
            return Path(download_pretrained(config, prefer_hf_hub=prefer_hub))
        except Exception as error:  # the download libraries raise many types; all mean that the weights cannot be had
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise ModelError(
        f"weights {tag!r} of {name!r} cannot be downloaded (looked at {' and '.join(a for a, _ in addresses)}: "
        f"{reason}); {_advice(name, config)}"
    )


def cached_weights(config: Mapping[str, Any]) -> Path | None:
    """The file of open_clip's entry `config` that lies on this machine: where OpenAI's code keeps it, or the hub's."""
    if config.get("url"):
        path = Path("~/.cache/clip").expanduser() / Path(str(config["url"])).name
        if path.is_file():
            return path
    if config.get("hf_hub"):
        repository, file = os.path.split(str(config["hf_hub"]))
        for name in (file,) if file else _NAMES:
            found = huggingface_hub.try_to_load_from_cache(repository, name)
            if isinstance(found, str):
                return Path(found)
    return None


def is_cached(name: str, tag: str | None = None) -> bool:
    """Whether weights need no network: those of a tag, or those that the name stands for."""
    config = get_pretrained_cfg(name, tag or default_tag(name))
    return bool(config) and cached_weights(config) is not None


def _addresses(config: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Where a file is, and whether that is the hub; the hub first, as open_clip has it."""
    found = []
    if config.get("hf_hub"):
        repository, file = os.path.split(str(config["hf_hub"]))
        found.append((f"{constants.ENDPOINT}/{repository}/resolve/main/{file or _NAMES[0]}", True))
    if config.get("url"):
        found.append((str(config["url"]), False))
    return found


def _advice(name: str, config: Mapping[str, Any]) -> str:
    address = config.get("url") or next((a for a, _ in _addresses(config)), "it")
    file = Path(str(address)).name
    if name in known_towers():
        output = Path(file).stem if config.get("url") else name  # the hub calls all of its files alike
        return (
            f"fetch {address} on a machine with network, turn it into a model file (cora convert {file} --output "
            f"{output}.safetensors) and give its path as the model"
        )
    return f"fetch {address} on a machine with network and give its path as the weights"


def _reachable(addresses: Sequence[str]) -> tuple[set[str], str]:
    """Those that answer, whatever they say, and why one does not."""
    if constants.HF_HUB_OFFLINE:
        return set(), "HF_HUB_OFFLINE is set"
    answered: dict[str, str | None] = {}
    asking = [threading.Thread(target=_ask, args=(one, answered), daemon=True) for one in addresses]
    for thread in asking:
        thread.start()
    for thread in asking:
        # Looking a name up has no limit of its own.
        thread.join(PATIENCE)
    reasons = [answered.get(one, f"no answer in {PATIENCE:g} s") for one in addresses]
    return {one for one in addresses if one in answered and answered[one] is None}, next(filter(None, reasons), "")


def _ask(address: str, answered: dict[str, str | None]) -> None:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE):
            answered[address] = None
    except urllib.error.HTTPError:
        answered[address] = None  # an answer all the same; what fetches it follows redirections and asks again
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        answered[address] = (str(reason).splitlines() or [type(error).__name__])[0]
