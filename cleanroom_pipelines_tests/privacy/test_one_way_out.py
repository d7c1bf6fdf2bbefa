"""Contract: numbers that depend on both parties' data are published through `privacy` only.

Three rules are checked on the source text, and each is first shown to find a violation.

1. A document's key that names a number about both parties gets a released value: `….value`, a ratio or a curve of
   `privacy`, a size computed from released counts, None, or the value of the same key in an earlier released
   answer.
   A name stands for all that is assigned to it in its function.
2. A module that can count exactly (it imports the relations of a room, the evaluator's counters, the exact
statistics
   of a lookalike, or a seed's sum and histogram) also imports the release, or is listed here with the reason.
3. The result of such a counter is passed to a release only, never to a document, error, comparison or return.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_type_hints

from cleanroom_pipelines.privacy import Released
from cleanroom_pipelines.similarity.room_statistics import others_of, reach_size_of

from ..architecture.tree import PACKAGE, modules

# Names of both-sided numbers in the answers of a data room.
RATIOS = {"match_rate", "affinity_ratio", "share_in_overlap", "share_in_matchable", "auc", "fpr", "tpr"}
COUNTS = {"overlap_size", "addressable_size", "size", "seed_size", "test_set_sizes", "is_empty"}
# `released_size` reads what a stored answer released, if it was paid
RELEASING = {"ratio", "affinity_ratio", "rate", "curve", "reach_size_of", "others_of", "released_size"}
DECIDING = {"is_enough"}

# Where documents of a data room are made. `size` means other things elsewhere (bytes, the size of an export).
PLACES = (
    "audiences/overlap.py",
    "audiences/insights.py",
    "media/*.py",
    "runs/*room*.py",
    "runs/budgets.py",
    "runs/*media*.py",
    "runs/*audience*.py",
    "defs/assets/*room*.py",
    "defs/assets/*audience*.py",
    "server/*media*.py",
    "server/media/*.py",
)

EXACT = {
    "cleanroom_pipelines.audiences.evaluating": {"count", "evaluate", "evaluate_counted"},
    "cleanroom_pipelines.audiences.relations": {"open_room_relations"},
    "cleanroom_pipelines.similarity.room_statistics": {"room_statistics"},
    "cleanroom_pipelines.similarity.private_lookalikes": {"seed_sum", "held_out_histogram"},
}
COUNTS_WITHOUT_TELLING = {
    "benchmarks/algebra.py": "measures time over made-up ids",
    "benchmarks/private.py": "measures rankings of open data, and draws its own noise",
}

# The third rule: who gives exact numbers, who holds them, and where they may go.
GIVES = {
    *("evaluate", "evaluate_counted", "find", "find_counted"),
    *("room_statistics", "seed_sum", "held_out_histogram"),
}
HOLDS = {"n_seed"}
HOLDING_TYPES = {"HeldOutCounts", "RoomStatistics"}
RELEASES = {"noised", "_noised", "count", "released_statistics"}


def unreleased(source: str) -> list[str]:
    """Return the keys of numbers about both parties that get an unreleased value, with their lines."""
    tree = ast.parse(source)
    found = []
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            continue
        own = list(_own_nodes(scope))
        values: dict[str, list[ast.expr]] = {}
        for node in own:
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        values.setdefault(target.id, []).append(node.value)
        for node in own:
            found += [
                f"{key} in line {value.lineno}"
                for key, value in _entries(node)
                if key in RATIOS | COUNTS and not _is_released(value, key, values, frozenset())
            ]
    return found


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a scope, without those of functions in it, which are scopes of their own."""
    pending = list(ast.iter_child_nodes(scope))
    while pending:
        node = pending.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            pending += ast.iter_child_nodes(node)


def _entries(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the keys and values that a node puts into a dictionary."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value, value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        yield from ((each.arg, each.value) for each in node.keywords if each.arg)
    elif isinstance(node, ast.Assign | ast.AugAssign) and node.value is not None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                yield str(target.slice.value), node.value


def _is_released(value: ast.expr, key: str, values: dict[str, list[ast.expr]], above: frozenset[str]) -> bool:
    def check(each: ast.expr, *names: str) -> bool:
        return _is_released(each, key, values, above.union(names))

    match value:
        case ast.Constant():
            found = value.value is None
        case ast.IfExp():
            found = check(value.body) and check(value.orelse)
        case ast.Dict():
            found = all(check(each) for each in value.values)
        case ast.UnaryOp(op=ast.Not()):
            found = key == "is_empty" and check(value.operand)
        case ast.Call(func=ast.Name(id="list" | "tuple" | "dict"), args=[only]):
            found = check(only)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            is_old_answer = name == "get" and _text(value.args[:1]) == key
            found = name in RELEASING or (name in DECIDING and key == "is_empty") or is_old_answer
        case ast.Attribute(value=ast.Name(id="self")):
            # An answer's own field holds what was released when the answer was made.
            found = value.attr in (key, "value")
        case ast.Attribute():
            found = value.attr == "value" or (value.attr == key and key in RATIOS)
        case ast.Subscript(slice=ast.Constant(value=old)):
            found = old == key
        case ast.Name() if value.id not in above:
            assigned = values.get(value.id, [])
            found = bool(assigned) and all(check(each, value.id) for each in assigned)
        case _:
            found = False
    return found


def _text(arguments: list[ast.expr]) -> object:
    return arguments[0].value if arguments and isinstance(arguments[0], ast.Constant) else None


@cache
def imports_of(source: str) -> list[ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]


def counts_exactly(source: str) -> bool:
    """Whether a module imports something that counts exactly."""
    imported = imports_of(source)
    return any({alias.name for alias in node.names} & EXACT.get(node.module or "", set()) for node in imported)


def releases(source: str) -> bool:
    """Whether a module imports the release; importing only prices does not count."""
    modules = {node.module or "" for node in imports_of(source)} - {"cleanroom_pipelines.privacy.prices"}
    return any(module.startswith("cleanroom_pipelines.privacy") for module in modules)


def escaping(source: str) -> list[str]:
    """Return the lines in which an exact number is passed to something other than a release."""
    found = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef) and function.name not in GIVES:
            found |= {f"{function.name}, line {line}" for line in _escaping(function)}
    return sorted(found)


def _escaping(function: ast.FunctionDef) -> Iterator[int]:
    above = {child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}
    exact = {
        each.arg
        for each in (*function.args.args, *function.args.kwonlyargs)
        if each.annotation is not None and any(name in ast.unparse(each.annotation) for name in HOLDING_TYPES)
    }
    while True:
        known = set(exact)
        escaped = []
        for node in ast.walk(function):
            if _is_exact(node, exact):
                where = _where(node, above)
                if where is None:
                    continue
                exact |= _names(where) if isinstance(where, ast.expr) else set()
                escaped += [node.lineno] if isinstance(where, ast.stmt) else []  # type: ignore[attr-defined]
        if exact == known:
            yield from escaped
            return


def _is_exact(node: ast.AST, exact: set[str]) -> bool:
    match node:
        case ast.Name(id=name, ctx=ast.Load()):
            return name in exact
        case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Load()):
            return name in HOLDS
        case ast.Call(func=ast.Name(id=name)):
            return name in GIVES
        case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
            return name in GIVES and owner not in ("re", "text")
    return False


def _where(node: ast.AST, above: dict[ast.AST, ast.AST]) -> ast.AST | None:  # noqa: PLR0911 one a case
    """Return the names that a number is assigned to, or the statement in which it escapes; None otherwise."""
    while node in above:
        below, node = node, above[node]
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if below is not node.func:
                if name in RELEASES:
                    return None
            case ast.keyword(arg=name) if name in HOLDS:
                return None
            case ast.comprehension(iter=source) if source is below:
                return node.target
            case ast.Assign():
                return ast.Tuple(list(node.targets))
            case ast.AnnAssign() | ast.NamedExpr() | ast.For():
                return node.target
            case ast.Expr():
                return None
            case ast.stmt():
                return node
    return None


def _names(target: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}


def makers() -> list[Path]:
    return sorted({path for place in PLACES for path in PACKAGE.glob(place)})


def test_documents_contain_only_released_numbers_about_both_parties() -> None:
    assert len(makers()) > 2
    found = {str(path.relative_to(PACKAGE)): unreleased(path.read_text()) for path in makers()}
    assert {path: keys for path, keys in found.items() if keys} == {}


def test_modules_that_count_exactly_also_release() -> None:
    silent = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        if counts_exactly(path.read_text()) and not releases(path.read_text())
    }
    assert silent == set(COUNTS_WITHOUT_TELLING)


def test_exact_numbers_are_only_passed_to_releases() -> None:
    counting = [path for path in modules() if counts_exactly(path.read_text())]
    paths = [path for path in counting if str(path.relative_to(PACKAGE)) not in COUNTS_WITHOUT_TELLING]
    assert {"room_lookalikes.py", "building_room_audiences.py"} <= {path.name for path in paths}
    text = "".join(path.read_text() for path in modules())
    assert [name for name in GIVES if f"def {name}(" not in text] == [], "a renamed counter would go unseen"
    assert [name for name in HOLDS if f"    {name}: int" not in text] == []
    found = {str(path.relative_to(PACKAGE)): escaping(path.read_text()) for path in paths}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_third_rule_finds_exact_numbers_that_escape() -> None:
    escapes = [
        "def f(self): return self.n_seed",
        "def f(self): return self.n_seed >= 25",
        "def f(self):\n    if self.n_seed < 25:\n        raise SeedError",
        "def f(self): raise SeedError(f'{self.n_seed} matched')",
        "def f(q): n = q.find_counted(); return {'users': n}",
        "def f(q): n = q.find_counted(); m = n + 1; log(users=m); return m",
        "def f(private): b = private.seed_sum(); return b",
        "def f(private, r):\n    b = private.seed_sum()\n    c = [r.noised(x) for x in b]\n    return b[0]",
        "def f(private): return [int(x) for x in private.seed_sum()]",
        "def f(self, histogram: 'HeldOutCounts'): return histogram.total",
        "def f(folder): return room_statistics(folder).auc",
    ]
    assert [source for source in escapes if not escaping(source)] == []
    released = [
        "def f(self, releaser): return releaser.count(self.n_seed, question=self.source)",
        "def f(private, r):\n    b = private.seed_sum()\n    return [r.noised(int(x)) for n, x in enumerate(b)]",
        "def f(q, releaser): n = q.find_counted(); return releaser.count(n)",
        "def f(q): q.find(q.definition)",
        "def f(q): n = q.find_counted(); return LookalikeRun(q, n_seed=n)",
        "def f(self, histogram: 'HeldOutCounts'): return [noised(x) for x in histogram.counts]",
        "def f(folder, seed): return released_statistics(room_statistics(folder), seed)",
    ]
    assert [source for source in released if escaping(source)] == []


def test_sizes_are_computed_from_released_counts_alone() -> None:
    for function in (reach_size_of, others_of):
        types = [each for name, each in get_type_hints(function).items() if name not in ("return", "reach")]
        assert types
        assert set(types) == {Released}


def test_only_a_releaser_creates_released_counts() -> None:
    inside = [path for path in modules() if "Released._" in path.read_text() or "._rounded" in path.read_text()]
    assert [path.relative_to(PACKAGE).as_posix() for path in inside] == ["privacy/release.py"]


def test_the_first_rule_finds_exact_numbers() -> None:
    exact = [
        'def f(n): return {"overlap_size": n}',
        'def f(table): return {"size": table.num_rows}',
        'def f(users): return {"size": len(users)}',
        'def f(users): return {"is_empty": not users}',
        'def f(users): return {"is_empty": len(users) < 40}',
        'def f(a, b): return {"match_rate": a / b}',
        'def f(a, b): return {"match_rate": round(a / b, 2)}',
        'def f(s): return {"auc": s.mean()}',
        "def f(s): return dict(seed_size=s.n_seed_users)",
        'def f(d, n): d["addressable_size"] = n',
        'def f(d, n): d["size"] = n + 0',
        'def f(row): return {"size": row["n_users"]}',
        'def f(row): return {"size": row.get("n_users")}',
        'def f(releaser, n): n = releaser.count(n, question="q") and n; return {"size": n}',
        'def f(x, n):\n    size = x.value\n    size = n\n    return {"size": size}',
        'def f(x, n): return {"size": x.value if n else n}',
        'def f(n): return {"test_set_sizes": {"seed": n, "other": None}}',
        'rows = [{"size": n} for n in counts]',
        'def f(array): return {"size": array.size}',
        'def f(array): return {"test_set_sizes": dict(array)}',
    ]
    assert [source for source in exact if not unreleased(source)] == []


def test_the_first_rule_accepts_released_numbers() -> None:
    released = [
        'def f(x): return {"size": x.value, "is_empty": not x.is_enough(), "n_files": 3}',
        'def f(a, b): return {"match_rate": ratio(a, b), "auc": privacy.rate(a), "tpr": list(curve(b))}',
        'def f(row): return {"overlap_size": row["overlap_size"], "size": row.get("size")}',
        'def f(row): return {"match_rate": row.match_rate, "size": None}',
        'def f(x, y): size = x.value if y else None; return {"size": size}',
        'def f(x): return {"test_set_sizes": {"seed": x.value, "other": None}}',
        'def f(d, x): d["size"] = x.value',
    ]
    assert [source for source in released if unreleased(source)] == []


def test_the_second_rule_finds_modules_that_count() -> None:
    counting = "from cleanroom_pipelines.audiences.evaluating import count\n"
    assert counts_exactly(counting)
    assert not releases(counting)
    assert releases(counting + "from cleanroom_pipelines.privacy import Releaser\n")
    assert not counts_exactly("from cleanroom_pipelines.audiences.evaluating import evaluate_files\n")
    assert any(counts_exactly(path.read_text()) for path in modules())
    for module, names in EXACT.items():
        file = PACKAGE.parent / f"{module.replace('.', '/')}.py"
        defined = {
            node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)
        }
        assert names <= defined, "a renamed counter would go unseen"
