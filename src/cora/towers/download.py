"""Weights of CLIP by open_clip name and tag: from a local cache, or downloaded into it.

Before a download, all addresses are probed with a short timeout: the download libraries wait for minutes if the network
does not answer.
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

#: Timeout in seconds for the probes, which run in parallel.
PATIENCE = 5.0
_NAMES = (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)


def download_weights(name: str, tag: str) -> Path:
    """Path of the weights of a tag: from the cache of OpenAI's code or of Hugging Face, or downloaded.

    Raises:
        ModelError: unknown tag, or the download failed; the message lists the addresses and what to do instead.
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
    """Local file of open_clip's entry `config`, in the cache of OpenAI's code or of Hugging Face; None without one."""
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
    """Whether the weights of a tag, by default `default_tag`, are in a cache, so that they need no network."""
    config = get_pretrained_cfg(name, tag or default_tag(name))
    return bool(config) and cached_weights(config) is not None


def _addresses(config: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """(address, whether it is on the Hugging Face hub) of a file; the hub first, as open_clip prefers."""
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
        output = Path(file).stem if config.get("url") else name  # all files on the hub have the same name
        return (
            f"fetch {address} on a machine with network, turn it into a model file (cora convert {file} --output "
            f"{output}.safetensors) and give its path as the model"
        )
    return f"fetch {address} on a machine with network and give its path as the weights"


def _reachable(addresses: Sequence[str]) -> tuple[set[str], str]:
    """Addresses that answer, with any HTTP status, and the reason why one does not; "" if all do."""
    if constants.HF_HUB_OFFLINE:
        return set(), "HF_HUB_OFFLINE is set"
    errors: dict[str, str | None] = {}
    threads = [threading.Thread(target=_ask, args=(address, errors), daemon=True) for address in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        # The timeout of `urlopen` does not limit the DNS lookup.
        thread.join(PATIENCE)
    reasons = [errors.get(address, f"no answer in {PATIENCE:g} s") for address in addresses]
    return {address for address in addresses if errors.get(address, "") is None}, next(filter(None, reasons), "")


def _ask(address: str, errors: dict[str, str | None]) -> None:
    """Send a HEAD request and record the error under the address; None if there is an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE):
            errors[address] = None
    except urllib.error.HTTPError:
        errors[address] = None  # the server answered; the download library handles redirects and other methods
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        errors[address] = (str(reason).splitlines() or [type(error).__name__])[0]
