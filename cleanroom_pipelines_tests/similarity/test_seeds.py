"""Contract: every reason to reject a seed, and the counts of dropped rows."""

import json
from pathlib import Path

import pandas as pd
import pytest

from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.similarity.seeds import match_seed, read_seed
from cleanroom_pipelines.storage.seed_parts import merge_parts
from cleanroom_pipelines_tests import damaged
from cleanroom_pipelines_tests.offenders import offenders
from cleanroom_pipelines_tests.similarity.planted import ENGINE, make_world, seed_of, train_on


def _lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _json(ids: list[str]) -> list[str]:
    return [json.dumps({"user_id": user_id}) for user_id in ids]


def test_duplicates_and_bad_lines_are_counted(tmp_path: Path) -> None:
    ids = [f"u{number}" for number in range(100)]
    seed = read_seed(_lines(tmp_path / "seed.jsonl", [*_json(ids), *_json(ids[:7]), "{broken"]), engine=ENGINE)
    assert (seed.n_rows, seed.n_unique, seed.n_duplicates, seed.n_invalid) == (108, 100, 7, 1)
    assert seed.user_ids.to_pylist() == sorted(ids)


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_the_three_formats_give_the_same_seed(tmp_path: Path, form: str) -> None:
    frame = pd.DataFrame({"user_id": [str(number) for number in range(40)], "extra": 1})
    path = tmp_path / f"seed.{form}"
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "parquet":
        frame.astype({"user_id": "int64"}).to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    seed = read_seed(path, engine=ENGINE)
    assert set(seed.user_ids.to_pylist()) == set(frame["user_id"])


def test_unusable_seeds_report_the_reason(tmp_path: Path) -> None:
    def check(lines: list[str], code: StatusCode) -> None:
        with pytest.raises(SeedError) as caught:
            read_seed(_lines(tmp_path / "seed.jsonl", lines), engine=ENGINE)
        assert caught.value.status_code is code
        assert caught.value.remedy
        assert "u1" not in str(caught.value)

    seeds = [
        (_json([f"u{n}" for n in range(24)]), StatusCode.SEED_TOO_SMALL),
        (["not json"] * 30, StatusCode.SEED_INVALID),
        ([json.dumps({"name": str(n)}) for n in range(30)], StatusCode.SEED_INVALID),
        (_json([f"u{n}" for n in range(30)]) + ["{"] * 2, StatusCode.SEED_INVALID),
        (_json([""] * 30), StatusCode.SEED_INVALID),
    ]
    assert offenders(seeds, check) == []


def test_more_ids_than_allowed_are_rejected(tmp_path: Path) -> None:
    path = _lines(tmp_path / "seed.csv", ["user_id", *[str(number) for number in range(500_001)]])
    with pytest.raises(SeedError) as caught:
        read_seed(path, engine=ENGINE)
    assert caught.value.status_code is StatusCode.SEED_TOO_LARGE


def test_a_missing_and_an_empty_seed(tmp_path: Path) -> None:
    with pytest.raises(SeedError) as caught:
        read_seed(tmp_path / "nowhere.jsonl", engine=ENGINE)
    assert caught.value.status_code is StatusCode.SEED_NOT_FOUND
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(SeedError):
        read_seed(tmp_path / "empty.jsonl", engine=ENGINE)


LONG = ("user_id\n" + "".join(f"u{number}\n" for number in range(5_000))).encode()


def test_a_damaged_gzip_is_not_read_as_a_shorter_seed(tmp_path: Path) -> None:
    def check(how: str) -> None:
        (tmp_path / "seed.csv.gz").write_bytes(damaged.GZIPS[how](LONG))
        with pytest.raises(SeedError) as caught:
            read_seed(tmp_path / "seed.csv.gz", engine=ENGINE)
        assert caught.value.status_code is StatusCode.SEED_INVALID

    assert offenders(damaged.GZIPS, check) == []


@pytest.mark.parametrize("n_parts", [1, 2])
def test_an_unclosed_quote_is_not_read_as_a_shorter_seed(tmp_path: Path, n_parts: int) -> None:
    parts = [tmp_path / f"{number}.csv" for number in range(n_parts)]
    for part in parts:
        part.write_bytes(LONG)
    parts[0].write_bytes(damaged.with_open_quote(LONG))
    merge_parts(parts, tmp_path / "seed.csv", max_bytes=1_000_000)
    with pytest.raises(SeedError) as caught:
        read_seed(tmp_path / "seed.csv", engine=ENGINE)
    assert caught.value.status_code is StatusCode.SEED_INVALID
    assert str(caught.value).startswith("The seed has an unclosed quote")


def test_whole_floats_are_read_as_integers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user_id": [*map(float, range(30)), None]})
    frame.to_parquet(tmp_path / "seed.parquet")
    frame.to_csv(tmp_path / "seed.csv", index=False)
    for name in ("seed.parquet", "seed.csv"):
        assert set(read_seed(tmp_path / name, engine=ENGINE).user_ids.to_pylist()) == set(map(str, range(30)))


def test_ids_with_fractions_are_rejected_with_a_remedy(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user_id": [*map(float, range(30)), 7.5]})
    frame.to_parquet(tmp_path / "seed.parquet")
    frame.to_csv(tmp_path / "seed.csv", index=False)
    for name in ("seed.parquet", "seed.csv"):
        with pytest.raises(SeedError) as caught:
            read_seed(tmp_path / name, engine=ENGINE)
        assert "as text" in caught.value.remedy


def test_match_counts_known_users(tmp_path: Path) -> None:
    world = make_world(n_users=200)
    model = train_on(world.interactions, tmp_path)
    match = match_seed(model, seed_of([*world.users[:30], *[f"stranger{n}" for n in range(10)]])).counts
    assert (match.n_unique, match.n_matched, match.match_rate) == (40, 30, 0.75)
