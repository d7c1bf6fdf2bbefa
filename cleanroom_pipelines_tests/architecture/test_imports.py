"""Contract: imports follow one direction, one module owns DuckDB, and heavy libraries are loaded when needed.

The core never imports Dagster; only the engine's module imports duckdb; neither loading the definitions nor
showing a command's help loads libraries for learning, validating, plotting or clusters.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

from .tree import PACKAGE, ROOT, modules

HEAVY = {"lightgbm", "sklearn", "matplotlib", "pandera", "botocore", "pyspark", "implicit", "pandas"}


def imported_by(path: Path) -> set[str]:
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_imports_follow_the_layers() -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_every_package_has_a_layer() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    unnamed = {name for name in packages if not re.search(rf"cleanroom_pipelines\.{name}\b", text)}
    assert unnamed <= {"declarations"}, "the direction of declarations is held by the next test"


def test_only_commands_import_declarations() -> None:
    importers = {
        path.relative_to(PACKAGE).parts[0]
        for path in modules()
        if "cleanroom_pipelines.declarations" in path.read_text()
        and path.relative_to(PACKAGE).parts[0] != "declarations"
    }
    assert importers == {"cli"}


def test_one_module_imports_duckdb() -> None:
    assert [path.name for path in modules() if "duckdb" in imported_by(path)] == ["duckdb_engine.py"]


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after a statement."""
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in json.loads(run.stdout.splitlines()[-1])}


def test_the_definitions_load_no_heavy_library() -> None:
    loaded = loaded_by("import cleanroom_pipelines.definitions as d; d.defs().get_repository_def()")
    assert "dagster" in loaded
    assert loaded & HEAVY == set()


def test_help_of_every_command_loads_nothing_heavy() -> None:
    loaded = loaded_by(_HELP_OF_ALL)
    assert "click" in loaded
    assert loaded & (HEAVY | {"sqlalchemy", "pyarrow", "numpy", "duckdb", "dagster", "boto3", "rich"}) == set()


_HELP_OF_ALL = """
import click
from click.testing import CliRunner
from cleanroom_pipelines.cli.main import cleanroom

def show(words, command):
    shown = CliRunner().invoke(cleanroom, [*words, "--help"])
    assert (shown.exit_code, "Usage: cleanroom" in shown.output) == (0, True), (words, shown.output)
    for name, each in getattr(command, "commands", {}).items():
        show([*words, name], each)

assert CliRunner().invoke(cleanroom, ["--version"]).exit_code == 0
show([], cleanroom)
assert "train" in cleanroom.commands and cleanroom.commands["account"].commands
"""
