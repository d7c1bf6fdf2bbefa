"""Writing a delivery: an audience without its control group, and the changes since an earlier delivery.

Lives here: which rows are delivered, held out, added and removed, for the exports of both APIs.
Add here when a delivery gets new content, or users are held out of it for another reason.
Keep out: bytes (delivery.formats), the folder and its manifest (`delivery.exports`), rules of destinations.

Without a control group, hashes or an earlier export, the users are streamed. Otherwise they are written as parquet
to a private folder, and the engine computes the rows within its memory limit, spilling to disk.

- The parts of an export are always the complete list. Removing the `removed` files from a destination and adding
  the `added` ones gives exactly the parts, whatever else changed: users who were delivered before and are
  now in the control group are among the removed.
- A hash may belong to several users. It is delivered once, and not at all if it belongs to someone who is held
  out: the destination would reach that person.
- Lists of users keep the order of the audience. Files of hashes are ordered by the hash, which reveals nothing.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.delivery.destinations import (
    AdDestination,
    destination_hashes,
    file_format,
    line_around,
)
from cleanroom_pipelines.delivery.exports import (
    Changes,
    EarlierExport,
    ExportHooks,
    ExportManifest,
    ExportOptions,
    open_earlier_export,
    write_export,
)
from cleanroom_pipelines.delivery.formats import CSV, LISTS_OF_USERS, FileFormat
from cleanroom_pipelines.delivery.holdouts import Holdout
from cleanroom_pipelines.delivery.parts import UserSlice, stage_parts
from cleanroom_pipelines.engine import Engine, EngineSettings, TableFiles, open_configured_engine, open_engine
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.storage.buckets import ObjectPlace
from cleanroom_pipelines.terms import Family, MatchingId

HASHES = pa.schema([("user_id", pa.string()), ("kind", pa.string()), ("hash", pa.string())])
_AUDIENCE = pa.schema([("position", pa.int64()), ("user_id", pa.string())])
_LINES = pa.schema([("user_id", pa.string()), ("line", pa.string())])
_EARLIER = pa.schema([("position", pa.int64()), ("line", pa.string())])


@dataclass(frozen=True)
class Activation:
    """The ad destination of a delivery, and the hashes of the users' ids for it.

    Args:
        destination: The platform that it is uploaded to.
        kinds: The kinds of the ids before hashing; STRING for plain user ids.
        hashes: Batches of HASHES from `hash_ids`: one row per user and id, of any users, in any order.
    """

    destination: AdDestination
    kinds: tuple[MatchingId, ...]
    hashes: Iterable[pa.RecordBatch] = ()


@dataclass(frozen=True)
class Delivery:
    """The manifests of a delivery and of its control group.

    Args:
        manifest: The manifest of the delivered files.
        holdout: The manifest of the control group's list, which is not part of the delivery; None without one.
    """

    manifest: ExportManifest
    holdout: ExportManifest | None


@dataclass(frozen=True)
class ControlGroup:
    """The control group of a delivery, and the folder outside the delivery that lists its users."""

    holdout: Holdout
    place: ObjectPlace


def deliver(
    place: ObjectPlace,
    users: Iterable[pa.Array],
    options: ExportOptions,
    *,
    activation: Activation | None = None,
    control_group: ControlGroup | None = None,
    engine: EngineSettings | None = None,
    slices: Callable[[int], Sequence[UserSlice]] | None = None,
    hooks: ExportHooks | None = None,
) -> Delivery:
    """Write an audience to its destination, completely or not at all.

    Args:
        place: The folder to create; see `write_export`.
        users: Batches of user ids, best first, each user once.
        options: Content and format of the export.
        activation: The destination, which determines the format, and the hashes for its files.
        control_group: The users to hold out.
        engine: Limits for computing the rows; its scratch folder temporarily contains the users.
        slices: Splits the same users into slices of a given size, for files that a cluster writes.
        hooks: Callbacks during the writing.

    Raises:
        ClaimLostError: The fence rejects this attempt, or a later attempt finished first; this attempt's files are
            removed.
        CancelledError: The fence reports a cancellation; everything written is removed.
        UsageError: The options contradict each other, or the earlier export holds other ids.
        DestinationRuleError: The destination does not accept ids of a kind.
        ArtifactError: The earlier export is missing or was altered.
        DestinationError: A destination cannot be written or read.
        StorageFullError: The disk is full.
        EngineError: The engine failed.
    """
    if activation is not None:
        format_ = file_format(activation.destination, activation.kinds)
        options = replace(options, format_=format_, ad_destination=activation.destination.value)
    holds_users = options.file_format.holds_users
    earlier = None if options.delta_from is None else _comparable(options.delta_from, options)
    settings = engine or EngineSettings()
    if control_group is None and earlier is None and holds_users:
        if settings.url is None or slices is None:
            rows_of_users = (batch.to_pylist() for batch in users)
            return Delivery(write_export(place, rows_of_users, options, hooks=hooks), None)
        with (
            tempfile.TemporaryDirectory(prefix="export-", dir=settings.scratch) as staging,
            open_configured_engine(settings, paths=[staging]) as cluster,
        ):
            of_users = slices(options.max_rows)
            staged = stage_parts(cluster, of_users, options.file_format, Path(staging), gzip=options.gzip)
            return Delivery(write_export(place, (), options, staged=staged, hooks=hooks), None)
    with (
        tempfile.TemporaryDirectory(prefix="delivery-", dir=settings.scratch) as scratch,
        open_engine(settings, paths=[scratch]) as opened,
    ):
        rows = _DeliveryRows(opened, Path(scratch))
        holdout = control_group.holdout if control_group else None
        rows.take_users(users, holdout)
        if activation is None or holds_users:
            rows.deliver_users()
        else:
            rows.deliver_hashes(activation, options.file_format)
        if earlier is not None:
            rows.take_earlier(earlier)
        facts = rows.facts(holdout)
        kept = None
        if control_group is not None:
            # before the delivery, so that no delivery exists whose control group is unknown
            lists_users = options.file_format.name in LISTS_OF_USERS
            of_group = replace(
                options,
                requested=facts["holdout"]["users"],
                format_=options.format_ if lists_users else CSV,
                ad_destination=None,
                reveals=(),
            )
            held_out = {"holdout": facts["holdout"]}
            kept = write_export(control_group.place, rows.held_out(), of_group, facts=held_out)
        changes = None if earlier is None else Changes(earlier.export, rows.added(), rows.removed())
        written = write_export(
            place,
            rows.delivered(),
            options,
            delivered=rows.n_delivered(),
            changes=changes,
            facts=facts,
            hooks=hooks,
        )
        return Delivery(written, kept)


def hash_ids(destination: AdDestination, kind: MatchingId, user_ids: pa.Array, ids: pa.Array) -> pa.RecordBatch:
    """Hash the ids of users for a destination.

    Args:
        destination: The destination.
        kind: The kind of the ids.
        user_ids: The user of each id; nulls allowed.
        ids: Strings, as given; nulls allowed.

    Returns:
        A batch of HASHES; missing or invalid users and ids are omitted.

    Raises:
        DestinationRuleError: The destination does not accept ids of the kind.
    """
    hashes = destination_hashes(destination, kind, ids)
    batch = pa.RecordBatch.from_arrays(
        [user_ids.cast(pa.string()), pa.array([kind.value] * len(ids), pa.string()), hashes], schema=HASHES
    )
    return batch.filter(pc.and_(pc.is_valid(batch.column("user_id")), pc.is_valid(batch.column("hash"))))


def _comparable(place: ObjectPlace | Path, options: ExportOptions) -> EarlierExport:
    earlier = open_earlier_export(place)
    format_ = options.file_format
    same = earlier.format.holds_users and format_.holds_users
    if not same and options.ad_destination is not None:
        same = (earlier.destination, earlier.format) == (options.ad_destination, format_)
    if not same:
        raise UsageError(
            "The earlier export contains a different kind of ids.",
            remedy="Compare with an export for the same destination, or omit the comparison.",
        )
    return earlier


class _DeliveryRows:
    """The rows of one delivery, as tables of one engine session."""

    def __init__(self, engine: Engine, scratch: Path) -> None:
        self._engine = engine
        self._scratch = scratch
        self._are_hashes = False

    def take_users(self, users: Iterable[pa.Array], holdout: Holdout | None) -> None:
        self._stage("audience", _AUDIENCE, _numbered(users, _AUDIENCE))
        condition, parameters = holdout.condition("user_id") if holdout else ("false", [])
        self._engine.execute(
            # one row per user of the audience
            f"CREATE TEMP TABLE listed AS SELECT position, user_id, {condition} AS is_held_out FROM audience",
            parameters,
        )

    def deliver_users(self) -> None:
        self._engine.execute(
            # one row per delivered user
            "CREATE TEMP TABLE delivered AS SELECT position, user_id AS line FROM listed WHERE NOT is_held_out"
        )

    def deliver_hashes(self, activation: Activation, format_: FileFormat) -> None:
        self._are_hashes = True
        self._stage("hashed", _LINES, _lines(activation, format_))
        self._engine.execute(
            # one row per user of the audience, and hash
            "CREATE TEMP TABLE reached AS "
            "SELECT DISTINCT listed.user_id, hashed.line, listed.is_held_out "
            "FROM listed JOIN hashed ON listed.user_id = hashed.user_id"
        )
        self._engine.execute(
            # one row per delivered user, and hash
            "CREATE TEMP TABLE kept AS "
            "SELECT open.user_id, open.line FROM (SELECT * FROM reached WHERE NOT is_held_out) AS open "
            "ANTI JOIN (SELECT line FROM reached WHERE is_held_out) AS held ON open.line = held.line"
        )
        self._engine.execute(
            # one row per line of the files
            "CREATE TEMP TABLE delivered AS "
            "SELECT row_number() OVER (ORDER BY line) AS position, line FROM (SELECT DISTINCT line FROM kept)"
        )

    def take_earlier(self, earlier: EarlierExport) -> None:
        rows = (pa.array(batch, pa.string()) for batch in earlier.rows(self._scratch))
        self._stage("earlier", _EARLIER, _numbered(rows, _EARLIER))

    def n_delivered(self) -> int:
        if self._are_hashes:
            return self._count("SELECT count(DISTINCT user_id) FROM kept")
        return self._count("SELECT count(*) FROM delivered")

    def facts(self, holdout: Holdout | None) -> dict[str, Any]:
        """Count the users of the audience who are not delivered: held out, or without a hash."""
        facts: dict[str, Any] = {}
        if holdout:
            n_held_out = self._count("SELECT count(*) FROM listed WHERE is_held_out")
            facts["holdout"] = {"share": holdout.percentage, "users": n_held_out}
        if self._are_hashes:
            n_open = self._count("SELECT count(*) FROM listed WHERE NOT is_held_out")
            n_reached = self._count("SELECT count(DISTINCT user_id) FROM reached WHERE NOT is_held_out")
            facts["usersWithoutHash"] = n_open - n_reached
            if holdout:
                facts["usersSharedWithHoldout"] = n_reached - self.n_delivered()
        return facts

    def held_out(self) -> Iterator[Sequence[str]]:
        return self._stream("SELECT user_id FROM listed WHERE is_held_out ORDER BY position")

    def delivered(self) -> Iterator[Sequence[str]]:
        return self._stream("SELECT line FROM delivered ORDER BY position")

    def added(self) -> Iterator[Sequence[str]]:
        return self._stream(
            "SELECT delivered.line FROM delivered ANTI JOIN earlier ON delivered.line = earlier.line "
            "ORDER BY delivered.position"
        )

    def removed(self) -> Iterator[Sequence[str]]:
        return self._stream(
            "SELECT earlier.line FROM earlier ANTI JOIN delivered ON earlier.line = delivered.line "
            "ORDER BY earlier.position"
        )

    def _stage(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        import pyarrow.parquet as pq

        path = self._scratch / f"{name}.parquet"
        with full_disk_is_an_error(), pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
        self._engine.scan(name, TableFiles((path.resolve(),), "parquet", tuple(schema.names)))

    def _count(self, sql: str) -> int:
        return int(self._engine.fetch(sql).column(0)[0].as_py())

    def _stream(self, sql: str) -> Iterator[Sequence[str]]:
        for batch in self._engine.batches(sql, rows=100_000):
            yield batch.column(0).to_pylist()


def _numbered(texts: Iterable[pa.Array], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    n_rows = 0
    for batch in texts:
        positions = pa.array(range(n_rows, n_rows + len(batch)), pa.int64())
        yield pa.RecordBatch.from_arrays([positions, batch.cast(pa.string())], schema=schema)
        n_rows += len(batch)


def _lines(activation: Activation, format_: FileFormat) -> Iterator[pa.RecordBatch]:
    """Yield the file's line for each hash: the hash in the column for its kind of id, the other columns empty."""
    families = {kind.family for kind in activation.kinds}
    around = {family: line_around(activation.destination, format_, family) for family in families}
    for batch in activation.hashes:
        kinds = batch.column("kind")
        for family in sorted(families):
            before, after = around[family]
            of_family = batch.filter(pc.is_in(kinds, pa.array(_kinds_of(family), pa.string())))
            lines = pc.binary_join_element_wise(before, of_family.column("hash"), after, "")
            yield pa.RecordBatch.from_arrays([of_family.column("user_id"), lines], schema=_LINES)


def _kinds_of(family: Family) -> list[str]:
    return [kind.value for kind in MatchingId if kind.family is family]
