"""Every option that a message or a help text names exists in the command that shows it."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import cora
from cora.apps.cli import _COMMANDS
from cora.apps.command import _POSITIONAL, Command
from cora.apps.command import _SYNONYMS as SYNONYMS
from cora.errors import OPTIONAL
from tests.apps.command_lines import COMMANDS

SOURCES = Path(cora.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
#: A command that a text names, and what may hold its options: 'cora train', without --variant; name --images.
NAMED = re.compile(r"\bcora ([a-z]+(?:-[a-z]+)*)([^;:]*)")
#: Options of other programs.
OTHERS = {"training/slurm.py": {"--kill-on-bad-exit"}}

STARTED = "train evaluate relabel"
LOOKING = "detect video batch"
#: What several commands can show: file -> option -> the commands that reach a message that names it.
REACHED = {
    "apps/command.py": {"--run": "train prune text-prompts finetune search-arch distill study"},
    "apps/data_options.py": {
        "--set": "train finetune",
        **dict.fromkeys(("--val-images", "--val-annotations", "--split", "--limit"), "align prune distill search-arch"),
    },
    "apps/model_options.py": dict.fromkeys(("--tiles", "--tile-size", "--tile-overlap"), f"{LOOKING} evaluate"),
    "apps/open_model.py": {
        "--text-model": f"{LOOKING} serve",
        "--model": f"{LOOKING} serve",
        "--classes": LOOKING,
        "--distractors": f"{LOOKING} export pseudo-label",
    },
    "batch/engines.py": {"--processes": "batch"},
    "batch/model.py": {"--exemplar": "batch"},
    "batch/run.py": {"--score": "batch"},
    "batch/settings.py": {"--review": "batch"},
    "compress/quantize_quiet.py": {"--mode": "quantize", "--backend": "quantize"},
    "compress/shrink.py": dict.fromkeys(("--architecture", "--tower-blocks", "--ffn", "--anchors"), "prune"),
    "data/captions.py": {"--nouns-from": "pseudo-label", "--skip-bad": "pseudo-label"},
    "data/class_weights.py": {"--class-weights": f"{LOOKING} evaluate serve"},
    "data/hold_out.py": dict.fromkeys(("--run", "--images", "--annotations"), "evaluate"),
    "data/name_file.py": {
        "--classes": "groups export cam quantize align prune distill search-arch pseudo-label",
        "--distractors": f"{LOOKING} export pseudo-label",
    },
    "detector/foreign.py": {"--weights": "convert"},
    "detector/published.py": {"--prompt": "convert"},
    "evaluation/setting.py": {"--images": "evaluate"},
    "evaluation/study_section.py": {"--study": "evaluate"},
    "evaluation/truth.py": {"--images": "evaluate"},
    "export/backends.py": {"--device": f"{LOOKING} evaluate serve"},
    "export/write.py": {"--classes": "export", "--force": "export"},
    "predictor/adapt.py": {"--short-side": f"{LOOKING} evaluate"},
    "predictor/device.py": {
        "--device": f"{LOOKING} evaluate serve train region-accuracy relabel pseudo-label text-prompts groups finetune "
        "index search study cam calibrate align prune distill search-arch"
    },
    "retrieval/index.py": {"--db": "index"},
    "retrieval/store.py": {"--db": "index"},
    "service/app.py": {"--db": "serve"},
    "service/security.py": {"--token-file": "serve"},
    "service/server.py": {"--allow-host": "serve", "--host": "serve", "--port": "serve"},
    "training/batches.py": {"--set": "train"},
    "training/engine.py": {"--processes": STARTED, "--machines": STARTED},
    "training/mix_annotations.py": {"--novel-names": "pseudo-label"},
    "training/result_teacher.py": {"--image-list": "pseudo-label", "--skip-bad": "pseudo-label"},
    "training/variants/table.py": {"--set": "train", "--variant": "train"},
    "video/follow.py": {"--score": "video"},
}


@cache
def options_of(name: str) -> frozenset[str]:
    """Options of a command by its whole name; of the first word of several names, those of any."""
    parsers = [parser for whole, parser in COMMANDS.items() if whole == name or whole.startswith(f"{name} ")]
    return frozenset(flag for parser in parsers for action in parser._actions for flag in action.option_strings)


def texts(source: str) -> Iterator[str]:
    """Text of a file that is no docstring, with {} for what is filled in; help texts are none of them."""
    tree = ast.parse(source)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))
        if isinstance(node, ast.keyword) and node.arg in ("help", "description", "epilog"):
            left_out.update(map(id, ast.walk(node.value)))
        if isinstance(node, ast.JoinedStr):
            left_out.update(id(part) for part in node.values if isinstance(part, ast.Constant))
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def unknown(text: str, known: frozenset[str]) -> set[str]:
    """Options in a text that are neither known nor of a command that the text names before them."""
    others = NAMED.sub(lambda one: " ".join(set(OPTION.findall(one[2])) - options_of(one[1])), text)
    return set(OPTION.findall(others)) - known


#: Options of ends of messages that commands without the option cut off.
ENDS = {option for end in OPTIONAL.values() for option in OPTION.findall(end)}


def commands_of_files() -> dict[str, list[str]]:
    """File of apps -> the whole names of the commands that it makes."""
    found: dict[str, list[str]] = {}
    for one in _COMMANDS:
        group = "" if isinstance(one, Command) else f"{one.name} "
        for each in (one,) if isinstance(one, Command) else one.commands:
            file = Path(str(sys.modules[each.run.__module__].__file__))
            found.setdefault(file.relative_to(SOURCES).as_posix(), []).append(f"{group}{each.name}")
    return found


OWN = commands_of_files()


@pytest.mark.parametrize("file", sorted(OWN))
def test_messages_of_a_command_name_its_options(file: str) -> None:
    known = frozenset().union(*map(options_of, OWN[file]))
    found = {text: bad for text in texts((SOURCES / file).read_text("utf-8")) if (bad := unknown(text, known))}
    assert found == {}


def test_messages_that_commands_share_name_options_of_all_that_reach_them() -> None:
    """Add what a new message names to the table above, with every command that can show it."""
    found: dict[str, set[str]] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        file = path.relative_to(SOURCES).as_posix()
        source = path.read_text("utf-8")
        for text in texts(source) if file not in OWN and OPTION.search(source) else ():
            # `cora --version`; and what other programs call an option, whose counterparts have a test of their own.
            known = {
                "errors.py": ENDS,
                "apps/cli.py": {"--version"},
                "apps/command.py": {*SYNONYMS, *SYNONYMS.values(), *_POSITIONAL, "--help"},
            }
            if named := unknown(text, frozenset()) - OTHERS.get(file, set()) - known.get(file, set()):
                found.setdefault(file, set()).update(named)
    assert found == {file: set(options) for file, options in REACHED.items()}
    lacking = [
        (file, option, command)
        for file, options in REACHED.items()
        for option, commands in options.items()
        for command in commands.split()
        if option not in options_of(command)
    ]
    assert lacking == []


def test_ends_of_messages_that_are_cut_off_name_the_option_that_decides_it() -> None:
    assert {name: set(OPTION.findall(end)) for name, end in OPTIONAL.items()} == {
        name: {f"--{name.replace('_', '-')}"} for name in OPTIONAL
    }


def test_suggested_options_exist() -> None:
    assert set(SYNONYMS.values()) <= frozenset().union(*map(options_of, COMMANDS))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_names_options_of_the_command(command: str) -> None:
    parser = COMMANDS[command]
    shown = [parser.description, parser.epilog, *(action.help for action in parser._actions)]
    found = {text: bad for text in shown if text and (bad := unknown(text, options_of(command)))}
    assert found == {}
