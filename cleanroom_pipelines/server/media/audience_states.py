"""A room's audiences as the console shows them: state, released size, quality and dependents.

Lives here: the calls of the data-room (Media) API that list and show audiences without a job, and rebuilding one.
Add here when an audience's page shows something else.
Keep out: changing audiences (`audiences.py`), and paying for figures: unpaid figures are not shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cleanroom_pipelines.audiences.definitions import Lookalike, parse_definition
from cleanroom_pipelines.catalog import Cause, CustomAudience, Kind, Status, Version
from cleanroom_pipelines.catalog.records import OPEN, Stage
from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.media.errors import ConflictError, PermissionDeniedError
from cleanroom_pipelines.media.protocol import JobKind, error_as_dict
from cleanroom_pipelines.runs.artifact_documents import read_documents
from cleanroom_pipelines.runs.budgets import Budget, Question, room_pair
from cleanroom_pipelines.server.media.access import Call, Room, denied
from cleanroom_pipelines.server.media.audiences import (
    Present,
    check_export,
    own_audience,
    shown_audience,
    shown_seeds,
)
from cleanroom_pipelines.server.media.jobs import failure_of, own_job
from cleanroom_pipelines.terms import Permission

RUNNING, FAILED, OUTDATED, READY = "running", "failed", "outdated", "ready"


def list_audiences(call: Call) -> dict[str, Any]:
    """Return the audiences that the caller can see, each with its state and, if it was paid for, its size."""
    room = call.room()
    view = _View(room)
    values = {name: sorted(each) for name, each in view.present.values.items()} if view.may_ask else {}
    return {
        "seeds": shown_seeds(room, view.present),
        "audiences": [view.listed(each) for each in room.visible()],
        "values": values,
    }


def get_audience(call: Call) -> dict[str, Any]:
    """Return an audience with its state, its quality and its dependents."""
    room = call.room()
    audience, view = room.audience(call.text("audience_id")), _View(room)
    call.trail["resource"] = audience.id
    shown = view.listed(audience)
    return {
        **shown,
        "dependents": _dependents(room, audience) if shown["is_own"] else None,
        "statistics": view.statistics(audience),
        "export": view.export(audience),
        "names": {each.id: each.name for each in room.visible()},
    }


def get_draft(call: Call) -> dict[str, Any]:
    """Return the unsaved audience definition whose size one of the caller's jobs computed."""
    job = own_job(call)
    if job.kind != JobKind.AUDIENCE_SIZE or job.data_room_id is None:
        raise denied()
    call.room_of(job.data_room_id, Permission.CREATE_CUSTOM_AUDIENCE)
    audience = call.installation.catalog.get(CustomAudience, job.target_id)
    if not audience.hidden:
        raise denied()
    return {"room_id": job.data_room_id, "definition": dict(audience.definition)}


def refresh_audience(call: Call) -> dict[str, Any]:
    """Rebuild an audience of the caller's group if it failed or the room has newer data.

    Raises:
        ConflictError: It is being built, or is built from the room's current data.
    """
    room = call.room(Permission.CREATE_CUSTOM_AUDIENCE)
    audience = own_audience(room, call.text("audience_id"))
    call.trail["resource"] = audience.id
    state, work = _View(room).state(audience)["name"], call.installation.catalog.work
    if state == FAILED:
        work.retry(Kind.CUSTOM_AUDIENCE, audience.id)
    elif state == OUTDATED:
        work.request_version(Kind.CUSTOM_AUDIENCE, audience.id, Cause.BY_HAND)
    else:
        raise ConflictError(
            "The audience is being built or is up to date, so it was not rebuilt.",
            remedy="Check its state: only failed or outdated audiences can be rebuilt.",
        )
    return {}


@dataclass(frozen=True)
class _View:
    """A room's audiences as the caller may see them; caches data that several audiences need."""

    room: Room
    _read: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def present(self) -> Present:
        """The seed types and attribute values that definitions can refer to now."""
        return Present.of(self.room)

    @property
    def may_ask(self) -> bool:
        """Whether the caller may see sizes and statistics of audiences, and the reasons for failed builds."""
        return self.room.group.may(Permission.CREATE_CUSTOM_AUDIENCE)

    def listed(self, audience: CustomAudience) -> dict[str, Any]:
        """Return an audience as JSON, with its state and, if it was paid for, its size."""
        return {
            **shown_audience(self.room, audience, self.present),
            "is_own": audience.created_by == self.room.group.id,
            "state": self.state(audience),
            "size": self.released_size(audience),
        }

    def state(self, audience: CustomAudience) -> dict[str, Any]:
        """Return an audience's state; include the reason for a failed build only if `may_ask`."""
        catalog = self.room.installation.catalog
        newest = catalog.resources.newest_version(Kind.CUSTOM_AUDIENCE, audience.id)
        if newest.status in OPEN:
            stage = catalog.work.stages([audience.id]).get((audience.id, newest.number)) or Stage("")
            return {"name": RUNNING, "stage": stage.words, "progress": stage.progress, "place": stage.place}
        if newest.status is not Status.ACTIVE:
            return {"name": FAILED, "error": error_as_dict(failure_of(newest)) if self.may_ask else None}
        is_current = self._data is not None and self._data.ref in newest.parents
        return {"name": READY if is_current else OUTDATED}

    def statistics(self, audience: CustomAudience) -> dict[str, Any] | None:
        """Return a lookalike's statistics; None for other audiences, and for callers who may not see them."""
        if not self.may_ask or not isinstance(parse_definition(audience.definition), Lookalike):
            return None
        found = self._documents(audience, "lookalike_statistics").get("statistics")
        if found is None:
            return None
        statistics = found["result"]
        published = self._documents(audience, "custom_audience").get("audience", {}).get("released", {})
        size_error = published.get("noise", {}).get("plus_minus")  # of all users; that of a part is smaller
        rows = [{**each, "size_error": size_error, **_derived(each, statistics)} for each in statistics["reach"]]
        return {**statistics, "reach": rows}

    def export(self, audience: CustomAudience) -> dict[str, Any] | None:
        """Return why the room forbids exporting an audience, or else what the exported list reveals."""
        if not self.room.group.may(Permission.EXPORT_AUDIENCE):
            return None
        try:
            check_export(self.room, audience)
        except PermissionDeniedError as error:
            return {"problem": error_as_dict(error), "reveals": None}
        built = self._documents(audience, "custom_audience").get("audience", {})
        return {"problem": None, "reveals": built.get("reveals")}

    def released_size(self, audience: CustomAudience) -> dict[str, Any] | None:
        """Return the released size of an audience; None if the caller may not see it or it was not paid for."""
        published = self._documents(audience, "custom_audience").get("audience") if self.may_ask else None
        if published is None or self._budget is None or "questions" not in published:
            return None
        questions = [Question.from_dict(each) for each in published["questions"]]
        is_paid = not questions or self._budget.is_paid(questions)
        return dict(published["released"]) if is_paid else None

    @cached_property
    def _budget(self) -> Budget | None:
        pair = room_pair(self.room.installation, self.room.record)
        return None if pair is None else Budget(self.room.installation, pair, self.room.id)

    @cached_property
    def _data(self) -> Version | None:
        return self.room.installation.catalog.resources.current_version(Kind.DATA_ROOM, self.room.id)

    def _documents(self, audience: CustomAudience, asset: str) -> dict[str, Any]:
        """Return an asset's JSON documents from an audience's current version; empty if there are none."""
        key = audience.id, asset
        if key not in self._read:
            self._read[key] = self._read_documents(audience, asset)
        return self._read[key]

    def _read_documents(self, audience: CustomAudience, asset: str) -> dict[str, Any]:
        installation = self.room.installation
        version = installation.catalog.resources.current_version(Kind.CUSTOM_AUDIENCE, audience.id)
        if version is None or asset not in version.artifacts:
            return {}
        try:
            with installation.store.opening(version.artifact(asset)) as folder:
                return read_documents(folder)
        except ArtifactError:
            return {}


def _derived(row: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, float | None]:
    """Compute the precision, its error, and the false-positive rate's error, at one row of the reach table.

    The precision is the share of the users in the reach who are in the source; None if a figure is hidden.
    """
    size, seed, found, error = row["size"], statistics["seed_size"], row["tpr"], row.get("tpr_error")
    others = statistics["test_set_sizes"]["others"]
    is_known = bool(size and seed) and found is not None
    has_error = error is not None
    return {
        "precision": round(min(found * seed / size, 1.0), 3) if is_known else None,
        "precision_error": round(error * seed / size, 3) if is_known and has_error else None,
        "fpr_error": round(error * seed / others, 3) if is_known and has_error and others else None,
    }


def _dependents(room: Room, audience: CustomAudience) -> dict[str, Any]:
    """Return the names of dependent audiences that the caller can see, and the number of hidden dependents."""
    all_ = room.installation.catalog.rooms.custom_audiences(room.id)
    found = {audience.id}
    while more := {each.id for each in all_ if found & set(each.references)} - found:
        found |= more
    others = [each for each in all_ if each.id in found - {audience.id}]
    names = sorted(each.name for each in others if each.is_seen_by(room.group.id))
    return {"names": names, "n_others": len(others) - len(names)}
