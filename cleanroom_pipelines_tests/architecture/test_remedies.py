"""Contract: each remedy names an action that its reader can take.

A command in a remedy exists, with its options; messages to HTTP clients do not refer to an operator's command;
names that the Media client quotes in backticks are its own.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

import click

import cleanroom_pipelines
from cleanroom_pipelines import errors, media
from cleanroom_pipelines.cli.main import cleanroom

from ..offenders import offenders

ROOT = Path(cleanroom_pipelines.__file__).parent
COMMAND = re.compile(r"`cleanroom ([^`]+)`|\bcleanroom ((?:[a-z]+ ?)+)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
BACKTICKED = re.compile(r"`([a-z_]+)`")
# what a server answers a client with, in so many words
SHOWN = ("UsageError", "InputError", "NotFoundError", "ConflictError", "MediaError")
# what only an operator at the machine meets
OPERATORS = (
    "cli",
    "declarations",
    "defs",
    "engine",
    "server/starting.py",
    "benchmarks",
    "runs/recovery.py",
    "runs/backups.py",
    "uploads/sources",  # runs replace its settings' errors, which are the operator's
)


@dataclass(frozen=True)
class Remedy:
    """A remedy as it is in the source, with … for the parts inserted at run time.

    Attributes:
        module: File below the package.
        line: Its line.
        text: The sentence.
        raised: The class or function that it is passed to.
    """

    module: str
    line: int
    text: str
    raised: str


@cache
def remedies() -> tuple[Remedy, ...]:
    sources = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
    constants = {
        target.id: node.value.value
        for tree in sources.values()
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    return tuple(
        Remedy(module, node.lineno, text, ast.unparse(node.func).rsplit(".", 1)[-1])
        for module, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "remedy"
        for text in texts_of(keyword.value, constants)
    )


def texts_of(node: ast.expr, constants: dict[str, str]) -> list[str]:
    """Return the texts that an expression may have, with both branches of a conditional expression."""
    if isinstance(node, ast.IfExp):
        return [*texts_of(node.body, constants), *texts_of(node.orelse, constants)]
    if isinstance(node, ast.JoinedStr):
        return ["".join("".join(texts_of(part, constants)) for part in node.values)]
    if isinstance(node, ast.FormattedValue):
        return texts_of(node.value, constants) if isinstance(node.value, ast.Name) else ["…"]
    if isinstance(node, ast.Name):
        return [constants.get(node.id, "…")]
    if isinstance(node, ast.BinOp):
        return ["".join((*texts_of(node.left, constants), *texts_of(node.right, constants)))]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    for word, command in group.commands.items():
        yield f"{name}{word}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name}{word} ")


COMMANDS = dict(commands(cleanroom))


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def named_command(text: str) -> str:
    """Return the longest command that begins a text; empty if there is none."""
    words = text.split()
    return next((name for n in range(len(words), 0, -1) if (name := " ".join(words[:n])) in COMMANDS), "")


def is_shown(remedy: Remedy) -> bool:
    """Whether an HTTP client may see it; a function that creates errors counts as those errors."""
    if remedy.module.startswith(OPERATORS):
        return False
    kind = getattr(media, remedy.raised, None) or getattr(errors, remedy.raised, None)
    if not inspect.isclass(kind):
        return not remedy.raised.endswith("Error")
    return any(base.__name__ in SHOWN for base in kind.__mro__)


def test_remedies_are_found() -> None:
    assert len(remedies()) > 400
    assert any("cleanroom recover" in remedy.text for remedy in remedies()), "also those of constants"
    assert any(is_shown(remedy) for remedy in remedies())


def test_commands_in_remedies_exist_with_their_options() -> None:
    def exists(remedy: Remedy) -> None:
        named = [match[0] or match[1] for match in COMMAND.findall(remedy.text)]
        for text in named:
            command = named_command(text)
            assert command, text
            assert set(OPTION.findall(text)) <= options_of(COMMANDS[command]), text

    assert offenders(remedies(), exists) == []


def test_options_in_remedies_belong_to_a_command_of_the_module() -> None:
    def exists(remedy: Remedy) -> None:
        module = f"cleanroom_pipelines.{remedy.module.removesuffix('.py').replace('/', '.')}"
        there = [
            command
            for command in COMMANDS.values()
            if command.callback is not None and inspect.unwrap(command.callback).__module__ == module
        ]
        known = set().union(*(options_of(command) for command in there or COMMANDS.values()))
        assert set(OPTION.findall(remedy.text)) <= known

    assert offenders(remedies(), exists) == []


def test_remedies_for_clients_name_no_command() -> None:
    def names_no_command(remedy: Remedy) -> None:
        assert not COMMAND.search(remedy.text)
        assert not OPTION.search(remedy.text)
        assert "CLEANROOM_" not in remedy.text

    assert offenders([remedy for remedy in remedies() if is_shown(remedy)], names_no_command) == []


def callables() -> Iterator[Callable[..., object]]:
    for thing in vars(media).values():
        if inspect.isclass(thing) and not issubclass(thing, Enum):
            yield from (each for _, each in inspect.getmembers(thing, inspect.isfunction))


def test_remedies_of_the_media_client_name_its_own_methods() -> None:
    public = {name for thing in vars(media).values() if inspect.isclass(thing) for name in dir(thing)}
    public |= set(dir(media)) | {name for call in callables() for name in inspect.signature(call).parameters}

    def is_its_own(remedy: Remedy) -> None:
        assert set(BACKTICKED.findall(remedy.text)) <= public

    of_the_client = [remedy for remedy in remedies() if remedy.module.startswith("media/")]
    assert of_the_client
    assert offenders(of_the_client, is_its_own) == []
