"""A declaration to start from, applied the way the command does."""

import copy
import itertools
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.declarations import DeclaredChange, apply_declaration, read_declaration
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.storage import Home

from .. import worlds
from ..conftest import StandingClock

BASE: dict[str, Any] = {
    "training_datasets": [
        {"name": "Baskets", "source": "baskets.csv", "columns": {"user": "USER_ID", "item": "ITEM_ID"}}
    ],
    "audience_models": [{"name": "Shoppers", "training_dataset": "Baskets"}],
    "configured_audience_models": [
        {
            "name": "Partners",
            "audience_model": "Shoppers",
            "sizes": ["1%", "5%", "20%"],
            "output": "s3://audiences/partners",
            "minimum_matching_seed_size": 25,
        }
    ],
    "generation_jobs": [
        {"name": "Spring", "configured_audience_model": "Partners", "seed": "seed.csv", "exports": ["5%", "20%"]}
    ],
}


class Room:
    """A folder with a declaration and its seed, and an installation to apply it to."""

    def __init__(self, folder: Path, installation: Installation) -> None:
        self.folder, self.installation = folder, installation
        self.raw = copy.deepcopy(BASE)
        folder.mkdir()
        (folder / "seed.csv").write_text("user\nanna@example.com\n")

    def start_over(self) -> None:
        """Declare again what was declared before a test changed it."""
        self.raw = copy.deepcopy(BASE)

    @property
    def catalog(self):  # type: ignore[no-untyped-def]
        return self.installation.catalog

    def write(self) -> Path:
        path = self.folder / "cleanroom.yaml"
        path.write_text(yaml.safe_dump(self.raw, allow_unicode=True))
        return path

    def apply(self, dry_run: bool = False) -> list[DeclaredChange]:
        return apply_declaration(
            self.catalog,
            self.installation.vault,
            read_declaration(self.write()),
            new_slot=lambda: secrets.token_hex(12),
            dry_run=dry_run,
        )

    def state(self) -> dict[str, Any]:
        """Everything that applying could change."""
        records = [record for kind in Kind for record in self.catalog.resources.iterate(kind)]
        return {
            "records": records,
            "versions": [self.catalog.resources.versions(record.kind, record.id) for record in records],
            "seeds": sorted(str(path) for path in self.installation.home.seeds.rglob("*")),
        }

    def one(self, kind: Kind) -> Any:
        (record,) = self.catalog.resources.iterate(kind)
        return record


def actions(changes: list[DeclaredChange]) -> list[tuple[str, str]]:
    return [(change.action, change.name) for change in changes]


@pytest.fixture
def room(tmp_path: Path, installation: Installation) -> Room:
    return Room(tmp_path / "room", installation)


@pytest.fixture
def new_room(tmp_path: Path, clock: StandingClock) -> Callable[[], Room]:
    """Makes another room with an empty home."""
    numbers = itertools.count()

    def make() -> Room:
        folder = tmp_path / f"another-{next(numbers)}"
        home = worlds.with_catalog(Home.open(folder / "home"))
        return Room(folder / "room", Installation(Settings(home.root, seed_floor=1), clock=clock))

    return make


def edit_declaration(room: Room, place: str, value: Any) -> None:
    """Set what lies at a place of a declaration, such as `audience_models.0.window.end`."""
    *path, last = (int(part) if part.isdigit() else part for part in place.split("."))
    target: Any = room.raw
    for part in path:
        target = target.setdefault(part, {}) if isinstance(target, dict) else target[part]
    target[last] = value


def worded(raw: dict[str, Any], place: str) -> str:
    """The words of a message for a place, such as `the audience model 'Shoppers', window.end`."""
    section, _, rest = place.partition(".")
    number, _, keys = rest.partition(".")
    entries = raw.get(section)
    if not number or not isinstance(entries, list):
        return place
    entry = entries[int(number)]
    name = entry.get("name") if isinstance(entry, dict) else None
    if type(name) not in (str, int) or len(str(name)) > 63 or not str(name).isprintable():
        return ", ".join(filter(None, [f"{section}.{number}", keys]))
    words = section.replace("_", " ").removesuffix("s")
    return ", ".join(filter(None, [f"the {words} {str(name)!r}", keys]))


@pytest.fixture
def edit(room: Room) -> Callable[[str, Any], None]:
    """Sets what lies at a place of the room's declaration."""
    return partial(edit_declaration, room)
