"""Every command line that README, docs and recipes show is one that the real parser takes."""

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from cora.apps import cli
from cora.apps.command import FUNCTION, OUTPUTS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.*")),
    *sorted((ROOT / "src/cora/assets").glob("*.md")),
]
_FENCED = re.compile(r"```[a-z]*\n(.*?)```", re.DOTALL)
_COMMAND = re.compile(r"\s*(?:\$ )?(?:\S*/)?cora (?=[a-z-])(.*)")


def texts() -> Iterator[tuple[str, str]]:
    """Name of a page and its text; of a Python file its docstring."""
    for page in PAGES:
        if page.suffix in (".md", ".py"):
            text = page.read_text(encoding="utf-8")
            if page.suffix == ".py":
                text = ast.get_docstring(ast.parse(text)) or ""
            yield page.relative_to(ROOT).as_posix(), re.sub(r"\\\n\s*", " ", text)


def shown() -> list[tuple[str, str]]:
    """Command lines that stand by themselves, to be copied."""
    found = []
    for page, text in texts():
        blocks = _FENCED.findall(text) if page.endswith(".md") else [re.sub(r"^\S.*$", "", text, flags=re.MULTILINE)]
        for line in "\n".join(blocks).splitlines():
            for part in re.split(r"&&|\||\s>\s|\s&$", line):
                if command := _COMMAND.fullmatch(part):
                    found.append((page, command.group(1)))
    return found


def mentioned() -> list[tuple[str, str]]:
    """Commands inside a sentence, which may leave out what it is not about."""
    return [
        (page, re.sub(r"\s+", " ", command))
        for page, text in texts()
        for command in re.findall(r"`(?:\S*/)?cora ([a-z][^`]*)`", _FENCED.sub("", text))
    ]


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All commands that do something, by their whole names."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for word, one in below[0].choices.items() if below else ():
        yield from commands(one, f"{name} {word}".strip())


COMMANDS = dict(commands(cli._parser()))


def test_there_is_something_to_test() -> None:
    assert len(shown()) > 50
    assert len(mentioned()) > 50
    assert {"text-prompts", "train all", "study evaluate", "convert"} <= COMMANDS.keys()


@pytest.mark.parametrize(("page", "command"), shown())
def test_shown_commands_parse(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[argparse.Namespace] = []

    def run(arguments: argparse.Namespace) -> int:
        ran.append(arguments)
        return 0

    monkeypatch.setattr(cli, "run_command", run)
    words = shlex.split(command, comments=True)
    if "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            cli.main(words)
    else:
        assert cli.main(words) == 0
        assert callable(getattr(ran[0], FUNCTION))


@pytest.mark.parametrize(("page", "command"), mentioned())
def test_mentioned_commands_have_these_options(page: str, command: str) -> None:
    words = command.split()
    known = [parser for name, parser in COMMANDS.items() if f"{command} ".startswith(f"{name} ")]
    known = known or [parser for name, parser in COMMANDS.items() if name.startswith(f"{words[0]} ")]
    assert known, (page, command)
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert options <= {flag for parser in known for flag in parser._option_string_actions}, (page, command)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_takes_the_place_of_what_the_parser_says(name: str) -> None:
    parser = COMMANDS[name]
    options = {action.dest for action in parser._actions}
    assert not options & parser._defaults.keys()
    assert callable(parser.get_default(FUNCTION))
    assert parser.get_default(OUTPUTS).keys() <= options
