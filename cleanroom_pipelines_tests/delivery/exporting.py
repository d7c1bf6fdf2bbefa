"""Calls of `deliver` and `write_export` with all options in one row, as tests name them."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa

from cleanroom_pipelines.delivery.exports import (
    ExportHooks,
    ExportManifest,
    ExportOptions,
    write_export,
)
from cleanroom_pipelines.delivery.holdouts import Holdout
from cleanroom_pipelines.delivery.writing import Activation, ControlGroup, Delivery, deliver
from cleanroom_pipelines.engine import STABLE_HASH_BITS, stable_hash
from cleanroom_pipelines.storage.buckets import ObjectPlace


def delivered(
    place: ObjectPlace,
    users: Iterable[pa.Array],
    *,
    format_: str | Activation,
    holdout: Holdout | None = None,
    holdout_place: ObjectPlace | None = None,
    **given: Any,
) -> Delivery:
    """Deliver; a control group is its share and its place."""
    options, hooks, rest = _sorted(given if isinstance(format_, Activation) else {"format_": format_, **given})
    group = ControlGroup(holdout, holdout_place) if holdout and holdout_place else None
    activation = format_ if isinstance(format_, Activation) else None
    return deliver(place, users, options, activation=activation, control_group=group, hooks=hooks, **rest)


def exported(place: ObjectPlace, users: Iterable[Sequence[str]], **given: Any) -> ExportManifest:
    """Write an export."""
    options, hooks, rest = _sorted(given)
    return write_export(place, users, options, hooks=hooks, **rest)


def holds_out(holdout: Holdout, user_id: str) -> bool:
    """Whether a user is in the control group, by the definition: the oracle of the SQL condition."""
    return stable_hash(f"holdout:{holdout.salt}:{user_id}") < holdout.share * 2**STABLE_HASH_BITS


def _sorted(given: dict[str, Any]) -> tuple[ExportOptions, ExportHooks, dict[str, Any]]:
    of_options, of_hooks = ({each.name for each in fields(kind)} for kind in (ExportOptions, ExportHooks))
    return (
        ExportOptions(**{name: value for name, value in given.items() if name in of_options}),
        ExportHooks(**{name: value for name, value in given.items() if name in of_hooks}),
        {name: value for name, value in given.items() if name not in of_options | of_hooks},
    )
