"""Every command line that README, docs and recipes show is one that the real parser takes, and means what it meant."""

import argparse
import json
import shlex
from typing import Any

import pytest

from cora.apps import cli
from cora.apps.command import COMMAND
from cora.apps.options import outputs_of
from tests.apps.command_lines import COMMANDS, TABLE, command_of, defaults, lines, meaning, mentioned, shown

FROZEN: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
ANEW = "if that is meant: python -m tests.apps.command_lines"


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
        assert callable(getattr(ran[0], COMMAND).run)


def test_the_table_has_every_line_and_command() -> None:
    assert set(lines()) == FROZEN["lines"].keys(), ANEW
    assert COMMANDS.keys() == FROZEN["defaults"].keys(), ANEW


@pytest.mark.parametrize("line", FROZEN["lines"])
def test_a_line_means_what_it_meant(line: str) -> None:
    assert meaning(line) == FROZEN["defaults"][command_of(line)] | FROZEN["lines"][line], ANEW


@pytest.mark.parametrize("name", FROZEN["defaults"])
def test_defaults_are_what_they_were(name: str) -> None:
    assert defaults(name) == FROZEN["defaults"][name], ANEW


@pytest.mark.parametrize(("page", "command"), mentioned())
def test_mentioned_commands_have_these_options(page: str, command: str) -> None:
    words = command.split()
    known = [parser for name, parser in COMMANDS.items() if f"{command} ".startswith(f"{name} ")]
    known = known or [parser for name, parser in COMMANDS.items() if name.startswith(f"{words[0]} ")]
    assert known, (page, command)
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert options <= {flag for parser in known for flag in parser._option_string_actions}, (page, command)


@pytest.mark.parametrize("name", COMMANDS)
def test_outputs_are_options(name: str) -> None:
    parser = COMMANDS[name]
    options = {action.dest for action in parser._actions}
    assert COMMAND not in options
    assert outputs_of(parser.get_default(COMMAND).options).keys() <= options
