"""Commands: a name, options and a function each; what they write is checked before they run. Their parser.

Errors of the parser are one line, name what was probably meant, and point to the help of the command.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, NoReturn

from cora.apps.kinds import TELLING, Kind, described
from cora.apps.options import AnyOptions, add_options, outputs_of, read_options, values_of
from cora.errors import OPTIONAL, CoraError
from cora.files import check_place, lock

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
#: Share of letters, 0 to 1, that a misspelt option has in common with the right one; letters of a short name.
_LIKENESS, _SHORT = 0.75, 3
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
    meant = [name for name in (_MEANT.get(word),) if name in known] or _alike(word, known)
    if meant:
        return f", did you mean {meant[0]}?"
    return f" (choose from {', '.join(otherwise)})" if otherwise else ""


def _alike(word: str, known: Sequence[str]) -> list[str]:
    """The name that was probably misspelt; of options what follows the dashes counts, which they all share."""
    dashes = "--" * word.startswith("--")
    bare = [name.removeprefix("--") for name in known if name.startswith(dashes)]
    word = word.removeprefix("--")
    # An option of another command is no misspelt one: few letters may differ, and one of a short word.
    likeness = 0.6 if not dashes or len(word) <= _SHORT else _LIKENESS
    return [f"{dashes}{name}" for name in get_close_matches(word, bare, n=1, cutoff=likeness)]


def _unknown(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Long options that no option begins with; what follows a bare -- is none."""
    before = words[: words.index("--")] if "--" in words else words
    names = [word.partition("=")[0] for word in before if word.startswith("--") and " " not in word]
    return [name for name in dict.fromkeys(names) if not any(option.startswith(name) for option in options)]


#: Where a parser keeps the command that it belongs to: no option can have this name, since it holds spaces.
COMMAND = "the command of this parser"

#: The option that names the folder of a run, and the file there that says that one is going on.
RUN, LOCK = "run_dir", "run.lock"

#: Options that are called otherwise than the attribute that holds their value.
_FLAGS = {RUN: "--run"}


@dataclass(frozen=True, kw_only=True)
class Command(Generic[AnyOptions]):
    """One command: its name, its options, and the function that does it and gives the exit code.

    help: what it does, in the list of commands; description, epilog: above and below its options.
    """

    name: str
    options: type[AnyOptions]
    run: Callable[[AnyOptions], int]
    help: str
    description: str
    epilog: str | None = None

    def add_command(self, commands: argparse._SubParsersAction[Any]) -> None:
        """Add its parser to those of other commands."""
        parser = commands.add_parser(self.name, help=self.help, description=self.description, epilog=self.epilog)
        add_options(parser, self.options)
        parser.set_defaults(**{COMMAND: self})


@dataclass(frozen=True, kw_only=True)
class CommandGroup:
    """A command that has commands below it, each of them a `title`, such as the stages of `cora train`."""

    name: str
    help: str
    description: str
    title: str
    commands: tuple[Command[Any], ...]

    def add_command(self, commands: argparse._SubParsersAction[Any]) -> None:
        """Add its parser, and those of the commands below it, to those of other commands."""
        parser = commands.add_parser(self.name, help=self.help, description=self.description)
        title, metavar = f"{self.title}s", self.title.upper()
        below = parser.add_subparsers(title=title, required=True, metavar=metavar, parser_class=Parser)
        for command in self.commands:
            command.add_command(below)


def run_command(arguments: argparse.Namespace) -> int:
    """Run what was parsed, unless its outputs cannot be written there; returns the exit code.

    Raises:
        CoraError: bad input, before any work; or another process works in the folder of the run.
    """
    command: Command[Any] = getattr(arguments, COMMAND)
    options = read_options(command.options, arguments)
    values = values_of(options)
    check_outputs(values, outputs_of(command.options))
    try:
        with _only_run(values.get(RUN)):
            return command.run(options)
    except CoraError as error:
        message = str(error)
        for name, end in OPTIONAL.items():
            message = message if name in values else message.replace(end, "")
        if message == str(error):
            raise
        raise CoraError(message) from None


@contextmanager
def _only_run(folder: Path | None) -> Iterator[None]:
    """Hold the folder of a run against a second process; what was made for that alone is gone afterwards."""
    # Processes that torchrun or srun start together work together: the first holds the folder for all.
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    if folder is None or rank != "0":
        yield
        return
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / LOCK) as held:
        if not held:
            raise CoraError(f"--run: expected a folder that no other run works in, got {folder}; wait or name another")
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                for place in new:
                    place.rmdir()


def check_outputs(values: Mapping[str, Any], outputs: Mapping[str, Kind]) -> None:
    """Refuse outputs that are a source, an earlier one of this command line, of another kind, or cannot be written.

    Args:
        values: of all options, by name.
        outputs: option that names a file or folder to write -> what is written there.

    Raises:
        CoraError: one is.
    """
    sources = [path for name, value in values.items() if name not in outputs for path in _places(value)]
    given = {name: values[name] for name in outputs if values[name] is not None}
    for number, (name, path) in enumerate(given.items()):
        others = [other for other in list(given.values())[:number] if same_place(other, path)]
        if others:
            raise CoraError(
                f"{_flag(name)}: expected a file of its own for each result, got {path} twice; name another"
            )
        check_output(path, outputs[name], sources, flag=_flag(name))


def check_output(path: Path, kind: Kind, sources: Iterable[Path], *, flag: str) -> None:
    """Refuse one output; of a folder, also the files that are written there.

    Args:
        path: to write.
        kind: of what is written.
        sources: what the command reads.
        flag: how people name the output.

    Raises:
        CoraError: it is one of the sources, a file of another kind, or cannot be written.
    """
    sources = list(sources)
    # A file where a folder is to be, or the reverse, has an error of its own.
    same_sort = path.is_dir() == kind.folder or not path.exists()
    if same_sort and (kind.apart or not kind.folder) and any(same_place(path, source) for source in sources):
        raise CoraError(f"{flag}: expected a place of its own, got {path}, which is read; name another")
    if not kind.folder and path.is_file() and path.stat().st_size and not kind.fits(path):
        raise CoraError(
            f"{flag}: expected a new file or {kind.name}, got {described(path)}: {path}; name another or move that away"
        )
    if not kind.folder and str(path) == "-":
        raise CoraError(
            f"{flag}: expected a file, got -, which is none here: standard output has the table; name a file"
        )
    ending = path.suffix.lower()
    if kind.endings and ending in TELLING and ending not in kind.endings:
        raise CoraError(
            f"{flag}: expected a file that ends in {' or '.join(kind.endings)}, got {path}; change its ending"
        )
    try:
        check_place(path, folder=kind.folder)
    except CoraError as error:
        raise CoraError(f"{flag}: {error}") from None
    parts = [(path / name, part) for name, part in kind.files.items()]
    parts += [(path.with_suffix(suffix), part) for suffix, part in kind.beside.get(path.suffix.lower(), {}).items()]
    for place, part in parts:
        check_output(place, part, sources, flag=flag)


def sources_of(options: Any, *, but: Iterable[str] = ()) -> list[Path]:
    """Files and folders that options name, apart from those under the names in `but`."""
    return [path for name, value in values_of(options).items() if name not in set(but) for path in _places(value)]


def same_place(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file: links, relative paths and, for systems that ignore it, case count as one."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return os.path.realpath(first).casefold() == os.path.realpath(second).casefold()


def _places(value: object) -> Iterator[Path]:
    if isinstance(value, str):
        # A name with @ stands for a file of names.
        candidates = [Path(value), Path(value.removeprefix("@"))] if value else []
    elif isinstance(value, Path):
        candidates = [value]
    elif isinstance(value, list | tuple):
        candidates = []
        for one in value:
            # In a list folders are meant; a lone text with the name of one may be a model's, or a format's.
            yield from [Path(one)] if isinstance(one, str) and _exists(one, folder=True) else _places(one)
    else:
        candidates = []
    yield from (path for path in candidates if _exists(path, folder=isinstance(value, Path)))


def _exists(path: str | Path, *, folder: bool) -> bool:
    try:
        return Path(path).is_file() or (folder and Path(path).is_dir())
    except (OSError, ValueError):  # a text that is too long for a path, or no path at all
        return False


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")
