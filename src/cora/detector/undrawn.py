"""Skips random initialisation before a checkpoint is loaded, which was most of the time of loading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWS = {Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_}


class Undrawn(TorchFunctionMode):
    """A context in which modules are built without filling parameters with random numbers.

    Unlike on torch's "meta" device, constants, buffers that no checkpoint holds and shared parameters come out right.
    Parameters that are not loaded afterwards are undefined; `load_checked` refuses missing ones.

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
        """Skip functions that draw random numbers."""
        if func in _DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
