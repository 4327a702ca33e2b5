"""Options of public calls that were renamed: their former names go on working."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def former_names(**current: str) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Let a function take options by their former names as well.

    Args:
        current: name of today, by former name.
    """

    def decorate(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        @functools.wraps(function)
        def renamed(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            options: Any = {current.get(name, name): value for name, value in kwargs.items()}
            return function(*args, **options)

        return renamed

    return decorate
