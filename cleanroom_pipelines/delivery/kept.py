"""Hashes for ad destinations: computed at ingest, while the ids are available, and stored for later deliveries.

Lives here: computing the hashes while a room's base is ingested, and reading them for a delivery.
Add here when hashes are stored in another way.
Keep out: encrypting the table that holds them (storage), and who may open it (catalogue).

The ids themselves are deleted after ingest, and no hash can be converted to another destination's. The table
is the `activation.parquet` of `uploads.ingest_base`; its column `destination` contains the keys of
`hashers_to_keep`. A key also names the kind of ids, because a delivered file has one column per family.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.delivery.destinations import (
    AdDestination,
    DestinationRuleError,
    destination_hashes,
    serves,
)
from cleanroom_pipelines.delivery.writing import HASHES, Activation
from cleanroom_pipelines.engine import open_parquet
from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.terms import MatchingId

Hasher = Callable[[MatchingId, pa.Array], pa.Array]

_ROWS_AT_ONCE = 100_000


def hashers_to_keep(destinations: Iterable[AdDestination]) -> dict[str, Hasher]:
    """Return functions that compute the hashes to store at ingest, one per destination and kind of id.

    Args:
        destinations: The destinations that the base's provider has enabled.

    Returns:
        For each destination and each kind of ids that it accepts as hashes, a function of the kind and the
        uploaded ids that returns the destination's hashes for ids of that kind, and nulls for others.
    """
    return {
        _key(destination, kind): _hasher(destination, kind)
        for destination in destinations
        if destination is not AdDestination.PLAIN
        for kind in MatchingId
        if kind is not MatchingId.STRING and serves(destination, kind)
    }


def kept_activation(file: Path, destination: AdDestination) -> Activation:
    """Read, for a delivery to an ad destination, the hashes that were stored at ingest.

    Args:
        file: The table of stored hashes: user_id, destination (a key of `hashers_to_keep`), hash. Not opened for
            PLAIN; it need not exist if the destination accepts user ids.
        destination: The destination. LIVERAMP gets the user ids if no hashes were stored.

    Raises:
        DestinationRuleError: No hashes were stored for the destination.
        ArtifactError: The table cannot be read.
    """
    if destination is AdDestination.PLAIN:
        return Activation(destination, ())
    kinds = {_key(destination, kind): kind for kind in MatchingId}
    found = set[str]()
    if file.exists():
        for batch in _batches(file, ["destination"]):
            found.update(pc.unique(batch.column("destination")).to_pylist())
    present = {key: kind for key, kind in kinds.items() if key in found}
    if present:
        return Activation(destination, tuple(present.values()), _hashes(file, present))
    if serves(destination, MatchingId.STRING):
        return Activation(destination, (MatchingId.STRING,))
    raise DestinationRuleError(
        f"The base audience has no hashes for {destination.words}.",
        remedy="Ask the publisher to enable the destination and to provision the base audience again, with e-mail "
        "addresses or phone numbers that the destination accepts.",
        destination=destination.value,
    )


def _key(destination: AdDestination, kind: MatchingId) -> str:
    return f"{destination.value}:{kind.value}"


def _hasher(destination: AdDestination, kind: MatchingId) -> Hasher:
    def hashes(given: MatchingId, ids: pa.Array) -> pa.Array:
        return destination_hashes(destination, kind, ids) if given is kind else pa.nulls(len(ids), pa.string())

    return hashes


def _hashes(file: Path, kinds: dict[str, MatchingId]) -> Iterator[pa.RecordBatch]:
    for batch in _batches(file, ["user_id", "destination", "hash"]):
        for key, kind in kinds.items():
            of_kind = batch.filter(pc.equal(batch.column("destination"), key))
            names = pa.array([kind.value] * of_kind.num_rows, pa.string())
            columns = [of_kind.column("user_id"), names, of_kind.column("hash")]
            yield pa.RecordBatch.from_arrays(columns, schema=HASHES)


def _batches(file: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    cause = ""
    try:
        with open_parquet(file) as opened:
            yield from opened.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns)
    except (pa.ArrowException, OSError) as error:
        cause = type(error).__name__
    # Outside the handler: Arrow's message may quote a cell, and __context__ would keep it.
    if cause:
        raise ArtifactError(
            f"The stored hashes for ad destinations cannot be read ({cause}).",
            remedy="Provision the base audience again.",
        )
