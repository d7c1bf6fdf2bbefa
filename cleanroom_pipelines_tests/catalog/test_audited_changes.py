"""Every change to the catalogue is audited, whether it was made or rejected.

Contract: the audit log has every change and every rejection, as the README says. Bookkeeping of runs (claims,
leases, progress, heartbeats) and results of work are not audited, because no user requested them.
"""

import ast
import inspect
import secrets
import textwrap
from collections.abc import Callable

import pytest

from cleanroom_pipelines.catalog import Catalog, Cause, Kind
from cleanroom_pipelines.catalog.database import Change, Part
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.ways_in import REQUEST, acting_for

from .building import dataset_spec, utc_now

BOOKKEEPING = {
    # which installation it is, what is about to be in the home, and what the caller notes (retention, recovery)
    "identify",
    "rebuild",
    "announce",
    "abandon_uploads",
    "delete_artifacts",
    # ledgers of pairs, whose payments are lines of their own with their amounts (runs.budgets)
    "pair",
    "charge",
    "restore_lines",
    # signing in and out, whose audit entries the console writes
    "add_session",
    "session",
    "end_session",
    "use_link",
    "start_session_by",
    "add_challenge",
    "use_challenge",
    # of runs and workers
    "claim",
    "reserve",
    "abandon",
    "renew",
    "release",
    "report_progress",
    "publish_artifact",
    "publish_output",
    "mark_receipt_current",
    "heartbeat_worker",
    "record_outcome",
    "dead_workers",
    "forget_worker",
    "reap",
    # what became of work that was asked for, which the versions themselves keep
    "finish",
    "fail",
    "begin_delivery",
    "withdraw_artifact",
    "fail_orphans",
    "begin_delete",
    "finish_delete",
    "fail_delete",
}


def calls_of_self(function: object) -> set[str]:
    """Names of the methods of its own, and of its database, that a method calls."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))  # type: ignore[arg-type]
    return {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) in ("self", "self._database")
    }


def methods() -> dict[str, Callable[..., object]]:
    """The methods of the catalogue's parts; no two share a name."""
    catalog = Catalog("sqlite:///nowhere.db", clock=utc_now, token_hex=secrets.token_hex)
    parts = [each for each in vars(catalog).values() if isinstance(each, Part)]
    return {name: each for part in parts for name, each in inspect.getmembers(type(part), inspect.isfunction)}


def changing_methods() -> set[str]:
    """The methods of the catalogue that write, themselves or by way of others."""
    calls = {name: calls_of_self(each) for name, each in methods().items()}
    found = {"write"}
    while more := {name for name, called in calls.items() if called & found} - found:
        found |= more
    return {name for name in found - {"write"} if not name.startswith("_")}


def is_noted(name: str) -> bool:
    """Whether a method is marked, or changes something only through one that is."""
    method = methods()[name]
    return method is not inspect.unwrap(method) or calls_of_self(method) & {"create", "put_policy"} != set()


def test_every_changing_method_is_reported() -> None:
    changing = changing_methods()
    assert {"create", "retry", "add_token", "claim"} <= changing, "the search sees methods that write"
    assert [name for name in sorted(changing - BOOKKEEPING) if not is_noted(name)] == []
    assert changing >= BOOKKEEPING, "no exception is left over"


@pytest.fixture
def changes(catalog: Catalog) -> list[Change]:
    found: list[Change] = []
    catalog.database.on_change = found.append
    return found


def test_change_names_its_resource_and_entry_point(catalog: Catalog, changes: list[Change]) -> None:
    with acting_for("cli"):
        key = catalog.resources.create(dataset_spec()).id
    catalog.work.request_version(Kind.TRAINING_DATASET, key, Cause.BY_HAND)
    assert [(each.operation, each.way, each.resource, each.error) for each in changes] == [
        ("create", "cli", key, None),
        ("request_version", "worker", key, None),
    ]


def test_rejected_call_is_reported(catalog: Catalog, changes: list[Change]) -> None:
    with pytest.raises(CleanroomError) as refused, acting_for("ui"):
        catalog.work.retry(Kind.TRAINING_DATASET, "nothing-000000000000")
    (change,) = changes
    assert (change.operation, change.way, change.error) == ("retry", "ui", refused.value)


def test_changes_of_a_request_are_attributed_to_it(catalog: Catalog, changes: list[Change]) -> None:
    with acting_for(REQUEST):
        catalog.resources.create(dataset_spec())
    assert changes == []
