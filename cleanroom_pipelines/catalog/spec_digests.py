"""Digests of specs: how two declarations are told to be the same.

Lives here: which spec belongs to which kind, a spec's fields as values, and its digest.
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
    """The fields a creator decides, by name; works for a spec and for the record made from it."""
    return {part.name: getattr(spec, part.name) for part in fields(SPECS[spec.kind])}


def spec_digest(spec: Spec) -> str:
    """SHA-256 hex of the spec's canonical JSON: two equal declarations have the same digest."""
    values = {
        name: value for name, value in spec_values(spec).items() if not (value is None and name in spec.came_later)
    } | {"tags": dict(spec.tags)}
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), default=_as_json)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _as_json(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else as_json(type(value), value)
