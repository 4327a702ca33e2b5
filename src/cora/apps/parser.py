"""The parser of the command line: errors are one line, name what was probably meant, and point to the right help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

#: Their abbreviations mean them, although newer options begin alike.
_FIRST = ("--classes",)


#: What other tools call an option -> how it is said here, where a command has it.
_MEANT = {
    **dict.fromkeys(("--conf", "--conf-thres", "--confidence", "--threshold", "--box-threshold"), "--score"),
    **dict.fromkeys(("--text", "--text-prompt", "--prompt", "--prompts", "--names", "--labels"), "--classes"),
    **dict.fromkeys(("--weights", "--checkpoint", "--ckpt"), "--model"),
    **dict.fromkeys(("--data", "--gt"), "--annotations"),
    **dict.fromkeys(("--project", "--out", "--save-dir", "--output-dir"), "--output"),
    **dict.fromkeys(("--agnostic-nms", "--agnostic"), "--class-agnostic"),
    **dict.fromkeys(("--imgsz", "--img-size", "--size"), "--short-side"),
    **dict.fromkeys(("--batch-size", "--bs"), "--batch"),
}
#: Options of other tools for what stands here without one.
_WITHOUT = ("--source", "--input", "--image", "--images", "--img", "--file", "--folder", "--video")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others of this program."""

    _given: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override]  # the overloads are for other namespaces
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; unlike elsewhere, what this parser does not know is its error, not that of the one above it."""
        self._given = tuple(sys.argv[1:] if args is None else args)
        commands = self._commands()
        command = next((word for word in self._given if not word.startswith("-")), None)
        if commands and command is not None and command not in commands:
            self.error(f"invalid choice: {command!r}{suggestion(command, commands, otherwise=commands)}")
        found, extra = super().parse_known_args(self._given, namespace)
        if extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}")
        return found, extra

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line; a misspelt option comes before what is missing because of it."""
        options = [option for action in self._actions for option in action.option_strings]
        unknown = [] if self._commands() else _unknown(self._given, options)
        if unknown:
            message = "unknown option " + ", ".join(f"{one}{self._meant(one, options)}" for one in unknown)
        self.exit(2, f"cora: error: {message}; see '{self.prog} --help'\n")

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        found: list[Any] = super()._get_option_tuples(option_string)
        return [one for one in found if one[1] in _FIRST] or found

    def _meant(self, word: str, options: Sequence[str]) -> str:
        places = [str(action.metavar or action.dest) for action in self._actions if not action.option_strings]
        return f", {places[0]} needs no option" if places and word in _WITHOUT else suggestion(word, options)

    def _commands(self) -> list[str]:
        found = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return list(found[0].choices) if found else []


def suggestion(word: str, known: Iterable[str], *, otherwise: Sequence[str] = ()) -> str:
    """What was probably meant, in words to follow the word; else the list `otherwise`, which may be empty."""
    known = list(known)
    meant = [name for name in (_MEANT.get(word),) if name in known] or get_close_matches(word, known, n=1)
    if meant:
        return f", did you mean {meant[0]}?"
    return f" (choose from {', '.join(otherwise)})" if otherwise else ""


def _unknown(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Long options that no option begins with; what follows a bare -- is none."""
    before = words[: words.index("--")] if "--" in words else words
    names = [word.partition("=")[0] for word in before if word.startswith("--") and " " not in word]
    return [name for name in dict.fromkeys(names) if not any(option.startswith(name) for option in options)]
