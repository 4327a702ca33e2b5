"""Modules without their random start, where a checkpoint follows: drawing millions of numbers was most of loading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWS = {Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_}


class Undrawn(TorchFunctionMode):
    """Within it parameters are made, but not filled with random numbers; everything else is as ever.

    Constants, buffers that no checkpoint holds and shared parameters come out right, which they do not on torch's
    "meta" device. What is not loaded afterwards holds anything; `load_checked` refuses to leave something out.

    Examples:
        >>> with Undrawn():
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
        """Leave out what draws numbers."""
        if func in _DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
