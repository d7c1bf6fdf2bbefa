"""A data room of many groups with one permission each, for tests of the handlers without runs.

Lives here: the room, its users, calling as one of them, and finishing work as a run would.
Keep out: fixtures and assertions.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from cleanroom_pipelines.catalog import RECORDS, CustomAudienceSpec, DataRoom, Kind, ParentRef
from cleanroom_pipelines.catalog.records import Claim
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.runs.budgets import Budget, room_pair
from cleanroom_pipelines.runs.building_room_audiences import FILES
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines.terms import CollaborationType, Permission

from ..storage.auditing import lines_of

EVERYTHING = tuple(each.value for each in CollaborationType)
STRANGER = "stranger@nowhere.example"
# a group a permission; the owner of the room has none
GROUPS: Mapping[str, tuple[Permission, ...]] = {
    "base": (Permission.PROVIDE_BASE_AUDIENCE,),
    "seed": (Permission.PROVIDE_SEED_AUDIENCE,),
    "overlap": (Permission.VIEW_OVERLAP,),
    "insights": (Permission.VIEW_INSIGHTS,),
    "create": (Permission.CREATE_CUSTOM_AUDIENCE,),
    "export": (Permission.EXPORT_AUDIENCE,),
    "quality": (Permission.MODEL_QUALITY,),
    "users": (Permission.MANAGE_USERS,),
    "owner": (),
}
SIDES = ("base", "seed")
SEED = {"kind": "seed", "audience_type": "loyal"}
REMARKETING = {"kind": "remarketing", "audience_type": "loyal"}
EXCLUSION = {"kind": "exclusion", "audience_type": "loyal"}
LOOKALIKE = {"kind": "lookalike", "source": SEED, "reach": 10, "exclude_seed_audience": False}
Documents = Mapping[str, Mapping[str, Any]]


def email(group: str) -> str:
    """Return the e-mail address of a group's member."""
    return group if "@" in group else f"{group}@media.example"


def rule(source: Mapping[str, Any] = SEED, *combinators: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule-based definition without filters."""
    return {"kind": "rule_based", "source": source, "filters": None, "combinators": list(combinators)}


def custom(audience_id: str) -> dict[str, str]:
    """Return a reference to a custom audience."""
    return {"kind": "custom", "id": audience_id}


@dataclass
class MediaWorld:
    """A room and its groups, which call the API."""

    installation: Installation
    service: MediaService
    room: str
    ids: Mapping[str, str]
    n_read: int = 0

    @classmethod
    def open(
        cls,
        installation: Installation,
        groups: Mapping[str, Iterable[Permission]] = GROUPS,
        types: Iterable[str] = EVERYTHING,
        name: str = "Spring",
    ) -> Self:
        """Create a room of these groups, owned by the last one.

        The providers of its two sides belong to two new organisations, so that it shares no budget.
        """
        service = MediaService(installation)
        known = {user.email for user in installation.catalog.users.all()}
        for side in SIDES:
            if email(side) not in known:
                installation.catalog.users.create_user(email(side))
            installation.catalog.pairs.set_organization(f"{side}-{installation.token_hex(8)}", email=email(side))
        participants = [
            {"emails": [email(name)], "role": name, "permissions": [each.value for each in permissions]}
            for name, permissions in groups.items()
        ]
        told = service.call(
            email(list(groups)[-1]),
            "create_room",
            {
                "name": name,
                "participants": participants,
                "collaboration_types": list(types),
                "matching_ids": ["EMAIL"],
                "hide_absolute_values": False,
                "activation": [],
            },
        )
        ids = {each["role"]: each["id"] for each in told["participants"]}
        return cls(installation, service, told["id"], ids)

    def call(self, group: str, method: str, **params: Any) -> Any:
        """Call as a member of a group, or as an e-mail address."""
        return self.service.call(email(group), method, params)

    def ask(self, group: str, kind: str, **params: Any) -> Any:
        """Start a job in the room."""
        return self.call(group, "start_job", room_id=self.room, kind=kind, **params)

    def upload(self, group: str, content: bytes = b"u,a@b.example\n") -> str:
        """Upload a file and return its hash."""
        return str(self.service.upload(email(group), [content], "a.csv")["manifest_hash"])

    def lab(self, group: str) -> str:
        """Create a validated data lab and return its id."""
        lab = self.call(group, "create_lab", name="lab", datasets={"matching:EMAIL": self.upload(group)})
        self.finish(Kind.DATA_LAB, lab["id"])
        return str(lab["id"])

    def provision(self) -> None:
        """Provision both sides; the room's new version is pending."""
        inputs = {"matching:EMAIL": self.upload("base"), "seeds:EMAIL": self.upload("seed")}
        self.installation.catalog.rooms.provision(self.room, inputs)

    def audience(
        self, group: str, definition: Mapping[str, Any] = LOOKALIKE, *, shared: Iterable[str] = (), name: str = ""
    ) -> str:
        """Create an audience of a group, regardless of its permissions, and return its id."""
        record = self.installation.catalog.resources.create(
            CustomAudienceSpec(
                name=name or self.installation.token_hex(4),
                mark=self.installation.token_hex(8),
                data_room_id=self.room,
                definition=definition,
                created_by=self.ids[group],
                created_by_email=email(group),
                shared_with=tuple(self.ids[each] for each in shared),
            ),
            declared=True,
        )
        return record.id

    def finish(
        self,
        kind: Kind,
        key: str,
        artifacts: Mapping[str, Documents] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> int:
        """Finish the newest version as a run with these documents would, and return its number."""
        catalog = self.installation.catalog
        claim = catalog.work.claim(kind, key, catalog.resources.newest_version(kind, key).number, "run")
        assert claim is not None
        for asset, documents in (artifacts or {}).items():
            self.write(claim, asset, key, documents, files or {})
        record = catalog.get(RECORDS[kind], key)
        parents: tuple[ParentRef, ...] = ()
        if record.parent_kind is not None and record.parent_id is not None:
            parent = catalog.resources.current_version(record.parent_kind, record.parent_id)
            parents = () if parent is None else (ParentRef(parent.kind, record.parent_id, parent.number),)
        catalog.work.finish(claim, {"sentence": "Made."}, parents)
        return claim.number

    def fail(self, kind: Kind, key: str, code: StatusCode, message: str) -> None:
        """Fail the newest version as a run would."""
        catalog = self.installation.catalog
        claim = catalog.work.claim(kind, key, catalog.resources.newest_version(kind, key).number, "run")
        assert claim is not None
        catalog.work.fail(claim, code, message)

    @property
    def budget(self) -> Budget:
        """Return the budget of the room's two data providers."""
        room = self.installation.catalog.get(DataRoom, self.room)
        pair = room_pair(self.installation, room)
        assert pair is not None
        return Budget(self.installation, pair, room.id)

    @property
    def spent(self) -> int:
        """Return the tenths of a unit that they have spent."""
        return self.budget.ledger.spent

    def lines(self) -> list[dict[str, Any]]:
        """Return the entries of the audit log."""
        self.installation.audit.flush()
        return list(self.installation.audit.entries())

    def new_lines(self) -> list[dict[str, Any]]:
        """Return the audit entries since the last call, since a log of many rooms is slow to read."""
        self.installation.audit.flush()
        lines = lines_of(self.installation.home.audit, self.n_read)
        self.n_read += len(lines)
        return [json.loads(line) for line in lines]

    def write(
        self, claim: Claim, asset: str, key: str, documents: Documents, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Publish documents as a run with the claim would."""
        version = f"{claim.number:04d}-{self.installation.token_hex(4)}"
        with self.installation.store.drafting(
            ArtifactReference(asset, key, version),
            code_version=ASSETS[asset].code_version,
            data_version="d",
            created_at=self.installation.clock().isoformat(),
            inputs=(),
        ) as draft:
            for name, document in documents.items():
                (draft.path / f"{name}.json").write_text(json.dumps(document))
            for name, content in (files or {}).items():
                (draft.path / FILES).mkdir(exist_ok=True)
                (draft.path / FILES / name).write_bytes(content)
        self.installation.catalog.work.publish_artifact(claim, asset, version)
