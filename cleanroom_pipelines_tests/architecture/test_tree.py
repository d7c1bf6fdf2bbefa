"""Contract: what the project's files promise their readers.

No query uses SQL's `hash()` (DuckDB's and Spark's differ); the README's first two shell blocks are the commands
that `.ci/run` runs, and its number of heavier tests is right; no file contains a path of one machine; each
module starts with its header; a class name means one thing.
"""

import ast
import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from ..collecting import MARKS
from .tree import PACKAGE, ROOT, TESTS, modules, own_text

# spelt so that this file does not match itself
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:wor[k]|op[t]|roo[t]|hom[e]/\w+|User[s]/\w+)/\w")
HEAVY_MARKS = {"browser", "postgresql", "sdk", "slow", "spark"}
SQL_HASH = re.compile(r"(?<![\w.])hash\s*\(", re.IGNORECASE)


def strings_of(source: str) -> list[str]:
    """Return the string literals that are not docstrings."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def test_no_query_uses_sql_hash() -> None:
    texts = {path.name: " ".join(strings_of(path.read_text())) for path in modules()}
    assert any("SELECT" in text for text in texts.values()), "the search sees queries"
    assert [name for name, text in texts.items() if SQL_HASH.search(text)] == []


def test_no_machine_path_in_the_tree() -> None:
    found = [str(path.relative_to(ROOT)) for path, text in own_text() if MACHINE_PATHS.search(text)]
    assert found == []


def test_every_module_starts_with_its_header() -> None:
    trees = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in modules()}
    assert [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_a_class_name_means_one_thing() -> None:
    # The client's names are its public API, which mirrors the server's objects and errors.
    trees = [
        ast.parse(path.read_text()) for path in modules() if path.parent.name != "media" or "server" in path.parts
    ]
    names = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, n in names.items() if n > 1] == []


def shell_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_readme_has_the_two_commands_that_ci_runs() -> None:
    blocks = shell_blocks()
    assert len(blocks) >= 2
    assert "cleanroom demo" in blocks[0]
    assert "pytest" in blocks[1]
    ci = ROOT / ".ci" / "run"
    assert ci.stat().st_mode & 0o111, "CI can start it"
    assert '"$(block 1)"' in ci.read_text()
    assert '"$(block 2)"' in ci.read_text()


def test_readme_counts_the_heavier_tests(request: pytest.FixtureRequest) -> None:
    sentence = next(line for line in (ROOT / "README.md").read_text().splitlines() if "-m browser" in line)
    total = re.match(r"(\d+) heavier tests", sentence)
    told = {mark: int(n) for n, mark in re.findall(r"(\d+) [^()\d]*\(`-m (\w+)`", sentence)}
    assert total is not None, "the README says how many heavier tests there are"
    marks = marks_of_all_tests(request.config)
    assert told == {mark: sum(mark in its for its in marks) for mark in HEAVY_MARKS}
    assert int(total.group(1)) == sum(bool(HEAVY_MARKS & its) for its in marks)


def marks_of_all_tests(config: pytest.Config) -> list[set[str]]:
    """Return the marks of each test of the project; collects all files if this run did not."""
    collected = config.stash[MARKS]
    if set(TESTS.rglob("test_*.py")) - collected.keys():
        command = [sys.executable, "-c", _COLLECT, str(TESTS)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        return [set(marks) for marks in json.loads(run.stdout.splitlines()[-1])]
    return [marks for of_file in collected.values() for marks in of_file]


_COLLECT = """
import json, sys, pytest
class Marks:
    def pytest_collection_finish(self, session):
        self.marks = [[mark.name for mark in item.iter_markers()] for item in session.items]
plugin = Marks()
options = ["--collect-only", "-qq", "-m", "", "-p", "no:cacheprovider", sys.argv[1]]
assert pytest.main(options, plugins=[plugin]) == 0
print(json.dumps(plugin.marks))
"""
