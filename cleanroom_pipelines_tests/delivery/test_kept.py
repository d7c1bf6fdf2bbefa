"""Contract: the hashes stored when a base is ingested give the same files as the ids themselves would, for the
enabled destinations only, each id in the column of its family."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.delivery.destinations import AdDestination, DestinationRuleError
from cleanroom_pipelines.delivery.kept import hashers_to_keep, kept_activation
from cleanroom_pipelines.delivery.writing import Activation, hash_ids
from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.storage.buckets import folder_on_disk
from cleanroom_pipelines.terms import MatchingId

from .exporting import delivered

IDS = {
    MatchingId.EMAIL: (["u1", "u2", "u2", "u3"], ["A.b+c@gmail.com", "two@example.com", "2@example.com", "no"]),
    MatchingId.PHONE_NUMBER: (["u1", "u4"], ["+41 79 123 45 67", "+41 79 123 45 68"]),
    MatchingId.HASHED_EMAIL: (["u5"], ["a" * 64]),
    MatchingId.STRING: (["u6"], ["card-6"]),
}
USERS = ["u1", "u2", "u3", "u4", "u5", "u6"]


def keep(file: Path, *destinations: AdDestination, kinds: tuple[MatchingId, ...] = tuple(IDS)) -> Path:
    """What ingest does with the hashers: it asks each for the ids of every table of matching ids."""
    rows = []
    for kind in kinds:
        users, ids = IDS[kind]
        for key, hasher in hashers_to_keep(destinations).items():
            hashes = hasher(kind, pa.array(ids)).to_pylist()
            rows += [(user, key, text) for user, text in zip(users, hashes, strict=True) if text]
    names = ("user_id", "destination", "hash")
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(3)]
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), file)
    return file


def written(folder: Path, format_: Activation) -> str:
    delivered(
        folder_on_disk(folder), [pa.array(USERS)], export="e", generation_job=None, requested=6, format_=format_
    )
    return (folder / "part-00000.csv").read_text()


@pytest.mark.parametrize(
    ("destination", "kinds"),
    [
        ("google", [MatchingId.EMAIL, MatchingId.PHONE_NUMBER]),
        ("meta", [MatchingId.EMAIL, MatchingId.PHONE_NUMBER, MatchingId.HASHED_EMAIL]),
        ("tiktok", [MatchingId.EMAIL, MatchingId.PHONE_NUMBER, MatchingId.HASHED_EMAIL]),
        ("liveramp", [MatchingId.EMAIL, MatchingId.HASHED_EMAIL]),
    ],
)
def test_kept_hashes_give_the_same_files_as_ids(tmp_path: Path, destination: str, kinds: list[MatchingId]) -> None:
    where = AdDestination(destination)
    batches = [hash_ids(where, kind, *(pa.array(column) for column in IDS[kind])) for kind in kinds]
    file = keep(tmp_path / "activation.parquet", *AdDestination)
    kept = kept_activation(file, where)
    assert set(kept.kinds) == set(kinds)
    assert written(tmp_path / "kept", kept) == written(tmp_path / "ids", Activation(where, tuple(kinds), batches))


def test_no_hashes_are_kept_for_disabled_destinations(tmp_path: Path) -> None:
    assert hashers_to_keep([AdDestination.PLAIN]) == {}
    file = keep(tmp_path / "activation.parquet", AdDestination.META)
    with pytest.raises(DestinationRuleError, match="Google Customer Match") as caught:
        kept_activation(file, AdDestination.GOOGLE)
    assert caught.value.remedy


def test_uploaded_hashes_do_not_fit_other_normalisation_rules(tmp_path: Path) -> None:
    file = keep(tmp_path / "activation.parquet", *AdDestination, kinds=(MatchingId.HASHED_EMAIL,))
    with pytest.raises(DestinationRuleError):
        kept_activation(file, AdDestination.GOOGLE)
    assert written(tmp_path / "x", kept_activation(file, AdDestination.META)) == f"email\n{'a' * 64}\n"


@pytest.mark.parametrize("exists", [True, False])
def test_user_ids_need_no_hashes(tmp_path: Path, exists: bool) -> None:
    file = tmp_path / "activation.parquet"
    if exists:
        keep(file, *AdDestination, kinds=(MatchingId.STRING,))
    plain = "".join(f"{user}\n" for user in USERS)
    assert written(tmp_path / "plain", kept_activation(file, AdDestination.PLAIN)) == plain
    assert written(tmp_path / "liveramp", kept_activation(file, AdDestination.LIVERAMP)) == f"CUSTOMID\n{plain}"


def test_damaged_table_is_reported_without_its_cells(tmp_path: Path) -> None:
    file = tmp_path / "activation.parquet"
    file.write_text("secret")
    with pytest.raises(ArtifactError) as caught:
        kept_activation(file, AdDestination.META)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None
