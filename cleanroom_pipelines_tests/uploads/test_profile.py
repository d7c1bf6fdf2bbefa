"""The profile's numbers equal plain pandas over the valid rows, and contain no ids."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cleanroom_pipelines.engine import EngineSettings
from cleanroom_pipelines.errors import InputError, UsageError
from cleanroom_pipelines.uploads.profile import profile_interactions

ENGINE = EngineSettings(memory_bytes=512 << 20, threads=1)
COLUMNS = [("user", "USER_ID"), ("item", "ITEM_ID"), ("ts", "TIMESTAMP"), ("spend", "NUMERICAL_FEATURE")]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    random = np.random.default_rng(7)
    n_rows = 2_000
    return pd.DataFrame(
        {
            "user": [f"u{i}" for i in random.zipf(1.5, n_rows) % 300],
            "item": random.zipf(1.3, n_rows) % 50,
            "ts": random.integers(1_600_000_000, 1_620_000_000, n_rows),
            "spend": np.where(random.random(n_rows) < 0.1, None, random.random(n_rows)),
        }
    )


@pytest.mark.parametrize("format_", ["csv", "jsonl", "parquet"])
def test_against_pandas(tmp_path: Path, frame: pd.DataFrame, format_: str) -> None:
    frame = frame.assign(spend=frame["spend"].astype("Float64"))
    file = tmp_path / f"t.{format_}"
    if format_ == "csv":
        frame.to_csv(file, index=False)
        with file.open("a") as stream:
            stream.write("u1,,5,1\nu1,i,x,1\nbroken\n")
    elif format_ == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file, index=False)
    profile = profile_interactions(file, COLUMNS, engine_settings=ENGINE, top_items=3)

    per_user = frame.groupby("user").size()
    per_item = frame.groupby("item")["user"].nunique().sort_values(ascending=False)
    months = pd.to_datetime(frame["ts"], unit="s").dt.strftime("%Y-%m").value_counts().sort_index()
    days = pd.to_datetime(frame["ts"], unit="s").dt.strftime("%Y-%m-%d")
    n_bad = 2 if format_ == "csv" else 0
    assert profile == {
        "n_rows": len(frame) + n_bad,
        "n_valid_rows": len(frame),
        "n_users": len(per_user),
        "n_items": len(per_item),
        "n_users_with_two": int((per_user >= 2).sum()),
        "first_day": days.min(),
        "last_day": days.max(),
        "rows_per_user": {
            f"{q:g}": int(per_user.quantile(q, interpolation="lower"))
            if q in (0, 1)
            else profile["rows_per_user"][f"{q:g}"]
            for q in (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
        },
        "top_item_user_shares": [round(n / len(per_user), 6) for n in per_item.head(3)],
        "n_nulls": {"user": 0, "item": n_bad // 2, "ts": 0, "spend": int(frame["spend"].isna().sum())},
        "rows_per_month": {month: int(n) for month, n in months.items()},
    }
    # Discrete quantiles differ by convention between libraries, by less than one rank.
    for q, n_rows in profile["rows_per_user"].items():
        share_below, share_up_to = (per_user < n_rows).mean(), (per_user <= n_rows).mean()
        assert share_below - 0.01 <= float(q) <= share_up_to + 0.01


def test_without_times(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item\na,x\na,y\n")
    profile = profile_interactions(tmp_path / "t.csv", COLUMNS[:2], engine_settings=ENGINE)
    assert (profile["first_day"], profile["last_day"], profile["rows_per_month"]) == (None, None, {})
    assert profile["top_item_user_shares"] == [1.0, 1.0]


def test_without_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item\n")
    profile = profile_interactions(tmp_path / "t.csv", COLUMNS[:2], engine_settings=ENGINE)
    assert (profile["n_rows"], profile["n_users"], profile["rows_per_user"]) == (0, 0, {})


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        profile_interactions(tmp_path / "none.csv", COLUMNS)
    with pytest.raises(UsageError):
        profile_interactions(tmp_path / "none.csv", COLUMNS[:1])
