"""Commands and their parser: a command has a name, options and a function; its outputs are checked before it runs.

An error of the parser is one line. It suggests what was probably meant, and points to the help of the command.
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

#: Options that keep their abbreviations, although newer options begin alike.
_PREFERRED = ("--classes",)

#: Option of other programs -> option with the same meaning here.
_SYNONYMS = {
    **dict.fromkeys(("--conf", "--conf-thres", "--confidence", "--threshold", "--box-threshold"), "--score"),
    **dict.fromkeys(("--text", "--text-prompt", "--prompt", "--prompts", "--names", "--labels"), "--classes"),
    **dict.fromkeys(("--weights", "--checkpoint", "--ckpt"), "--model"),
    **dict.fromkeys(("--data", "--gt"), "--annotations"),
    **dict.fromkeys(("--project", "--out", "--save-dir", "--output-dir"), "--output"),
    **dict.fromkeys(("--agnostic-nms", "--agnostic"), "--class-agnostic"),
    **dict.fromkeys(("--imgsz", "--img-size", "--size"), "--short-side"),
    **dict.fromkeys(("--batch-size", "--bs"), "--batch"),
}
#: Least similarity, 0 to 1, of a misspelt word and the right one: of an option, of a short option or another word.
_SIMILARITY, _SIMILARITY_OTHER = 0.75, 0.6
#: Letters of a short option.
_SHORT = 3
#: Options of other programs for what is a positional argument here.
_POSITIONAL = ("--source", "--input", "--image", "--images", "--img", "--file", "--folder", "--video")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others of this program."""

    _given: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override]  # the overloads are for other namespaces
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; unlike in `argparse`, unknown arguments are an error of this parser, not of the one above it."""
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
        """End with exit code 2 and one line; an unknown option is reported before what is missing because of it."""
        options = [option for action in self._actions for option in action.option_strings]
        unknown = [] if self._commands() else _unknown(self._given, options)
        if unknown:
            message = "unknown option " + ", ".join(f"{one}{self._hint(one, options)}" for one in unknown)
        self.exit(2, f"cora: error: {message}; see '{self.prog} --help'\n")

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        found: list[Any] = super()._get_option_tuples(option_string)
        return [one for one in found if one[1] in _PREFERRED] or found

    def _hint(self, word: str, options: Sequence[str]) -> str:
        arguments = [str(action.metavar or action.dest) for action in self._actions if not action.option_strings]
        return f", {arguments[0]} needs no option" if arguments and word in _POSITIONAL else suggestion(word, options)

    def _commands(self) -> list[str]:
        found = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return list(found[0].choices) if found else []


def suggestion(word: str, known: Iterable[str], *, otherwise: Sequence[str] = ()) -> str:
    """The end of a message about an unknown word: what was probably meant, else the choices in `otherwise`, if any."""
    known = list(known)
    meant = [name for name in (_SYNONYMS.get(word),) if name in known] or _alike(word, known)
    if meant:
        return f", did you mean {meant[0]}?"
    return f" (choose from {', '.join(otherwise)})" if otherwise else ""


def _alike(word: str, known: Sequence[str]) -> list[str]:
    """The most similar name, if one is similar enough; the dashes of options do not count."""
    dashes = "--" * word.startswith("--")
    bare = [name.removeprefix("--") for name in known if name.startswith(dashes)]
    word = word.removeprefix("--")
    # Strict with options: one that belongs to another command is not misspelt.
    least = _SIMILARITY_OTHER if not dashes or len(word) <= _SHORT else _SIMILARITY
    return [f"{dashes}{name}" for name in get_close_matches(word, bare, n=1, cutoff=least)]


def _unknown(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Long options in a command line, up to a bare --, that are neither known nor an abbreviation of a known one."""
    before = words[: words.index("--")] if "--" in words else words
    names = [word.partition("=")[0] for word in before if word.startswith("--") and " " not in word]
    return [name for name in dict.fromkeys(names) if not any(option.startswith(name) for option in options)]


#: Name under which parsed arguments hold their command; with its spaces it cannot be the name of an option.
COMMAND = "the command of this parser"

#: The option that names the run folder, and the file in it that is locked while a process works there.
RUN, LOCK = "run_dir", "run.lock"

#: Attribute -> its option, where that has another name.
_FLAGS = {RUN: "--run"}


@dataclass(frozen=True, kw_only=True)
class Command(Generic[AnyOptions]):
    """One command.

    Attributes:
        name: on the command line.
        options: dataclass of its options.
        run: does the work and returns the exit code.
        help: what it does, in the list of commands.
        description: text above its options in the help.
        epilog: text below them.
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
    """Check the outputs of the parsed command, then run it; returns its exit code.

    Raises:
        CoraError: bad input, an output that cannot be written, or a run folder in which another process works.
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
    """Lock a run folder against other processes; folders that were made only for the lock are removed again."""
    # Processes that torchrun or srun start together share the run: the first locks the folder for all.
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
    """Check that every output can be written and overwrites no source, no other output and no file of another kind.

    Args:
        values: of all options, by name.
        outputs: option that names a file or folder to write -> what is written there.

    Raises:
        CoraError: an output fails the check.
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
    """Check one output, and the files that are written in it or beside it.

    Args:
        path: to write.
        kind: of what is written.
        sources: what the command reads.
        flag: the option, for messages.

    Raises:
        CoraError: it is one of the sources, a file of another kind, or cannot be written.
    """
    sources = list(sources)
    # `check_place` reports a file in the place of a folder, and the reverse.
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
    """Existing files and folders that the values of options name, without the options in `but`."""
    return [path for name, value in values_of(options).items() if name not in set(but) for path in _places(value)]


def same_place(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file: links, relative paths and, for systems that ignore it, case count as one."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return os.path.realpath(first).casefold() == os.path.realpath(second).casefold()


def _places(value: object) -> Iterator[Path]:
    """Existing files and folders that the value of one option names."""
    if isinstance(value, str):
        # A name with @ stands for a file of names.
        candidates = [Path(value), Path(value.removeprefix("@"))] if value else []
    elif isinstance(value, Path):
        candidates = [value]
    elif isinstance(value, list | tuple):
        candidates = []
        for one in value:
            # A text in a list may name a folder, such as a source; a single text may be a model or a format instead.
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
