"""Digests of specs, for comparing declarations.

Lives here: the spec of each kind, a spec's field values, and its digest.
Add here when a field of a spec needs a form of its own in JSON.
Keep out: the specs themselves.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields

from cleanroom_pipelines.catalog.names import Kind
from cleanroom_pipelines.catalog.room_specs import (
    AudienceListSpec,
    CustomAudienceSpec,
    DataLabSpec,
    DataRoomSpec,
)
from cleanroom_pipelines.catalog.specs import (
    AudienceModelSpec,
    ConfiguredAudienceModelSpec,
    ExportJobSpec,
    GenerationJobSpec,
    Spec,
    TrainingDatasetSpec,
)
from cleanroom_pipelines.documents import as_json

SPECS: Mapping[Kind, type[Spec]] = {
    spec.kind: spec
    for spec in (
        TrainingDatasetSpec,
        AudienceModelSpec,
        ConfiguredAudienceModelSpec,
        GenerationJobSpec,
        ExportJobSpec,
        DataLabSpec,
        DataRoomSpec,
        CustomAudienceSpec,
        AudienceListSpec,
    )
}


def spec_values(spec: Spec) -> dict[str, object]:
    """Return the values of a spec's fields by name, without the additional fields that a record has."""
    return {part.name: getattr(spec, part.name) for part in fields(SPECS[spec.kind])}


def spec_digest(spec: Spec) -> str:
    """Return the SHA-256 hex of the spec's canonical JSON: equal declarations have equal digests."""
    values = {
        name: value for name, value in spec_values(spec).items() if not (value is None and name in spec.came_later)
    } | {"tags": dict(spec.tags)}
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), default=_as_json)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _as_json(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else as_json(type(value), value)
