"""Skips random initialisation before weights are loaded; it took most of the time of loading a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

_RANDOM_INIT = {Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_}


class SkipInit(TorchFunctionMode):
    """Context manager: modules that are built inside do not fill their parameters with random numbers.

    Unlike with torch's "meta" device, constants, shared parameters and buffers that no model file stores are correct.
    Parameters that are not loaded afterwards are undefined; `load_checked` refuses a file that lacks any.

    Examples:
        >>> with SkipInit():
        ...     layer = torch.nn.Linear(3, 2)
        >>> layer.weight.shape
        torch.Size([2, 3])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or return its tensor unchanged if it would fill it with random numbers."""
        if func in _RANDOM_INIT:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
