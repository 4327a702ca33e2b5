"""Keeps the former names of renamed keyword arguments working."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def former_names(**current: str) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Decorate a function so that it accepts keyword arguments by their former names as well.

    Args:
        current: former name=current name, such as `least_score="score_threshold"`.
    """

    def decorate(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        @functools.wraps(function)
        def renamed(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            options: Any = {current.get(name, name): value for name, value in kwargs.items()}
            return function(*args, **options)

        return renamed

    return decorate
