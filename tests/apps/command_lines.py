"""Command lines that README, docs and recipes show, and the table of what each means.

After a wanted change of an option or of a page, write the table anew and look at what it says of the difference:
    python -m tests.apps.command_lines
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from cora.apps import cli
from cora.apps.command import COMMAND
from cora.apps.options import read_options, values_of

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("command_lines.json")
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.*")),
    *sorted((ROOT / "src/cora/assets").glob("*.md")),
]
#: What no page need show, and what has to mean the same for ever.
FORMS = (
    "detect a.jpg --classes no",
    "detect a.jpg --classes ''",
    'detect a.jpg "b [1].jpg" --classes "cat, remote control"',
    "detect a.jpg --classes=@names.txt --score=0",
    "detect --classes cat -- -a.jpg",
    "detect a.jpg --classes cat --tiles 2X3 --tile-overlap 0.5 --short-side 800",
    "detect a.jpg --exemplar 'my mug=mug #1.jpg#1,2,3.5,4' --exemplar dog=d=1.png --distractors none",
    "detect a.jpg --classes cat --cl dog --mod nano --sc 1e-1",
    "detect a.jpg --classes cat --score 0.1 --score 0.9",
    "evaluate --annotations boxes.json --predictions found.json --lim 3",
    "evaluate --images a --annotations b --split coco --class-weights novel=8 --rename coco",
    "finetune --images a --annotations b --novel 'a, b' --set localizer.lr=-1e-4 --set data.versions=0 --hold-out 0",
    "video 0 --classes cat --reuse 2 --every 3 --start 1.5",
    "search regions.db --image a.jpg --box 1,2,3,4",
    "export --format onnx --output a.onnx --size 640x800 --check-on a.jpg b",
    "train all --images a --run r --set seed=-1",
)
_FENCED = re.compile(r"```[a-z]*\n(.*?)```", re.DOTALL)
#: What stands between two commands; a `|` in quotes belongs to class names.
_BETWEEN = re.compile(r"""&&|\|(?=(?:[^"]*"[^"]*")*[^"]*$)|\s>\s|\s&$""")
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
            for part in _BETWEEN.split(line):
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


def lines() -> list[str]:
    """Every line that the table holds, each once."""
    found = [line for _, line in shown() if "--help" not in line.split()]
    return list(dict.fromkeys([*FORMS, *found]))


def command_of(line: str) -> str:
    """Whole name of the command of a line."""
    return max((name for name in COMMANDS if f"{line} ".startswith(f"{name} ")), key=len)


def meaning(line: str) -> dict[str, Any]:
    """Value of every option of a line's command, as JSON."""
    read = cli._parser().parse_args(shlex.split(line, comments=True))
    return _values(values_of(read_options(getattr(read, COMMAND).options, read)))


def defaults(name: str) -> dict[str, Any]:
    """Value of every option of a command where it is not given, as JSON."""
    parser = COMMANDS[name]
    actions = [action for action in parser._actions if action.dest != "help"]
    fixed = {one.name: one.default for one in fields(parser.get_default(COMMAND).options) if not one.metadata}
    return _values({action.dest: parser.get_default(action.dest) for action in actions} | fixed)


def table() -> dict[str, Any]:
    """Defaults of every command, and for every line what differs from them."""
    usual = {name: defaults(name) for name in sorted(COMMANDS)}
    given = {}
    for line in sorted(lines()):
        before = usual[command_of(line)]
        values = meaning(line)
        assert values.keys() == before.keys(), line
        given[line] = {name: value for name, value in values.items() if value != before[name]}
    return {"defaults": usual, "lines": given}


def _values(options: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in sorted(options.items())}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return {"path": value.as_posix()}
    if isinstance(value, tuple):
        names = getattr(value, "_fields", range(len(value)))
        return {"tuple": {str(name): _plain(one) for name, one in zip(names, value, strict=True)}}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    assert value is None or isinstance(value, bool | int | float | str), value
    return value


def _write() -> None:
    before = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {"defaults": {}, "lines": {}}
    after = table()
    for part, now in after.items():
        for key in sorted(before[part].keys() | now.keys()):
            old, new = before[part].get(key), now.get(key)
            if old != new:
                word = "added" if old is None else "removed" if new is None else "changed"
                told = f"{word} ({part}): {key}" + (f": {old} -> {new}" if word == "changed" else "")
                sys.stdout.write(f"{told}\n")
    TABLE.write_text(json.dumps(after, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
