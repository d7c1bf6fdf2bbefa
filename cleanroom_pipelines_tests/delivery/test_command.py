"""Contract: `cleanroom export` writes the best users of what `cleanroom generate` made, or of any list, for a
destination, without Dagster; a percentage is one of all scored users. It ends with 0, or with 2 and one sentence
that quotes no id, and then nothing is written."""

import csv
import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.delivery.exports import verify_export
from cleanroom_pipelines.delivery.holdouts import Holdout, holdout_salt

from .. import worlds
from ..cli.commands import Commands
from ..offenders import offenders
from .exporting import holds_out

N_RANKED, N_SCORED = 400, 500
USERS = [f"user-{number:03d}" for number in range(N_RANKED)]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(capsys, monkeypatch)


@pytest.fixture
def ranking(tmp_path: Path) -> Path:
    """What `generate` leaves, with the rows of its file out of order."""
    folder = tmp_path / "audience"
    folder.mkdir()
    ranks = list(range(1, N_RANKED + 1))
    table = {"user_id": USERS[::-1], "rank": ranks[::-1], "score": [0.5] * N_RANKED}
    pq.write_table(pa.table(table), folder / "ranked.parquet")
    (folder / "metrics.json").write_text(json.dumps({"n_users": N_SCORED}))
    return folder


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    path = tmp_path / "ids.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user_id", "Email", "phone", "hashed_email"])
        for number, user in enumerate(USERS):
            writer.writerow([user, f"{user}@gmail.com", f"+4179{number:07d}" if number % 2 else "", ""])
        writer.writerow([USERS[0], "second@example.com", "", ""])
        writer.writerow(["stranger", "stranger@example.com", "", ""])
    return path


def lines(folder: Path) -> list[str]:
    return [line for part in sorted(folder.glob("part-*.csv")) for line in part.read_text().splitlines()]


def test_exports_the_best_users_of_a_ranking(command: Commands, ranking: Path, tmp_path: Path) -> None:
    ended = command("export", "--ranking", ranking, "--size", "10%", "--out", tmp_path / "out")
    assert (ended.code, ended.out, ended.err) == (0, "Exported 50 users in 1 file.\n", "")
    assert lines(tmp_path / "out") == ["user_id", *USERS[:50]]
    assert verify_export(tmp_path / "out")["requested"] == 50


def test_exports_the_output_of_generate(command: Commands, world: worlds.World, tmp_path: Path) -> None:
    schema = ",".join(f"{name}={role}" for name, role in worlds.ROLES.items())
    model, audience, out = tmp_path / "model", tmp_path / "audience", tmp_path / "out"
    steps = (
        ("train", "--interactions", world.interactions, "--schema", schema, "--out", model),
        ("generate", "--model", model, "--seed", world.seed, "--out", audience, "--min-matching-seed-size", "25"),
        ("export", "--ranking", audience, "--size", "10%", "--out", out, "--memory", "600MB", "--holdout", "20%"),
    )
    for step in steps:
        ended = command(*step)
        assert ended.code == 0, ended.err
    best = pq.read_table(audience / "ranked.parquet")["user_id"].to_pylist()[: worlds.N_USERS // 10]
    delivered, held_out = lines(out)[1:], lines(tmp_path / "out-holdout")[1:]
    assert sorted(delivered + held_out) == sorted(best)
    assert delivered == [user for user in best if user in delivered]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_exports_any_list_of_users(command: Commands, tmp_path: Path, suffix: str) -> None:
    source, users = tmp_path / f"list.{suffix}", ["b", "a", "c", "a"]
    if suffix == "csv":
        source.write_text("USER_ID,x\n" + "".join(f"{user},1\n" for user in users))
    elif suffix == "jsonl":
        source.write_text("".join(f'{{"user_id": "{user}"}}\n' for user in users))
    else:
        pq.write_table(pa.table({"user_id": users}), source)
    ended = command(
        "export", "--ranking", source, "--size", "100%", "--out", tmp_path / "out", "--format", "plain"
    )
    assert ended.code == 0, ended.err
    assert lines(tmp_path / "out") == ["b", "a", "c"]


def test_paths_may_be_relative(
    command: Commands, ranking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("export", "--ranking", ranking.name, "--size", "5", "--out", "1", "--holdout", "20%").code == 0
    ended = command("export", "--ranking", ranking.name, "--size", "5", "--out", "2", "--delta-from", "1")
    assert ended.code == 0, ended.err
    verify_export(Path("2"))


def test_seed_mode_of_an_artifact(command: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    schema = pa.schema(
        [("user_id", pa.string()), ("rank", pa.int64()), ("score", pa.float64()), ("is_seed", pa.bool_())],
        metadata={b"n_seed_users": b"2"},
    )
    columns = [USERS[:6], list(range(1, 7)), [0.5] * 6, [True, False, False, True, False, False]]
    pq.write_table(pa.table(columns, schema=schema), folder / "ranking.parquet")
    wanted = {"in_place": USERS[:3], "excluded": [USERS[1], USERS[2], USERS[4]]}
    for mode, users in wanted.items():
        out = tmp_path / mode
        ended = command("export", "--ranking", folder, "--size", "50%", "--out", out, "--seed-mode", mode)
        assert ended.code == 0, ended.err
        assert lines(out) == ["user_id", *users]


def test_all_options_together(command: Commands, ranking: Path, ids: Path, tmp_path: Path) -> None:
    common = (
        "--ranking",
        ranking,
        "--destination",
        "google",
        "--ids",
        ids,
        "--gzip",
        "--max-rows",
        "40",
        "--json",
    )
    common += ("--holdout", "10%", "--name", "spring")
    first = command("export", *common, "--size", "10%", "--out", tmp_path / "1")
    assert first.code == 0, first.err
    ended = command("export", *common, "--size", "20%", "--out", tmp_path / "2", "--delta-from", tmp_path / "1")
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert told["manifest"] == verify_export(tmp_path / "2")
    assert told["holdout"] == verify_export(tmp_path / "2-holdout")
    assert told["warnings"] == ["Google Customer Match does not accept HASHED_EMAIL; these ids were left out."]
    manifest = told["manifest"]
    chosen = Holdout.parse("10%", holdout_salt(b"", "spring"))
    held_out = [user for user in USERS[:100] if holds_out(chosen, user)]
    assert manifest["holdout"] == {"share": "10%", "users": len(held_out)}
    assert manifest["delivered"] == 100 - len(held_out)
    assert manifest["columns"] == ["Email", "Phone"]
    assert manifest["rows"] == json.loads(first.out)["manifest"]["rows"] + manifest["changes"]["added"]
    assert all(file["rows"] <= 40 for file in manifest["files"])
    rows = gzip.decompress((tmp_path / "2-holdout" / "part-00000.csv.gz").read_bytes()).decode().split()[1:]
    assert rows == held_out[:40]


def test_size_above_the_population(command: Commands, ranking: Path, tmp_path: Path) -> None:
    ended = command("export", "--ranking", ranking, "--size", "90%", "--out", tmp_path / "out")
    assert ended.code == 0
    assert "400 users" in ended.out
    assert "Warning: A requested size exceeds the population; all available users are delivered." in ended.out


def test_invalid_options_are_reported_and_nothing_written(
    command: Commands, ranking: Path, ids: Path, tmp_path: Path
) -> None:
    options = [
        ("--size", "0%"),
        ("--size", "x"),
        ("--holdout", "0%"),
        ("--holdout", "90%"),
        ("--holdout-out", "elsewhere"),
        ("--seed-mode", "first"),
        ("--destination", "google"),
        ("--destination", "google", "--format", "csv"),
        ("--ids", "{ids}"),
        ("--destination", "plain", "--ids", "{ids}"),
        ("--destination", "plain", "--format", "jsonl"),
        ("--format", "parquet", "--gzip"),
        ("--delta-from", "{ranking}"),
        ("--ranking", "{ranking}-none"),
        ("--ranking", "{ids}", "--destination", "google", "--ids", "{ranking}/ranked.parquet"),
        ("--holdout", "10%", "--holdout-out", "{out}/holdout"),
        ("--holdout", "10%", "--holdout-out", "{ranking}"),
        ("--memory", "many"),
        ("--max-rows", "0"),
        ("--format", "xlsx"),
    ]
    out = tmp_path / "out"
    before = set(tmp_path.iterdir())

    def check(*given: str) -> None:
        more = [option.format(ids=ids, ranking=ranking, out=out) for option in given]
        ended = command("export", "--ranking", ranking, "--size", "10%", "--out", out, *more)
        assert ended.code == 2
        assert ended.out == ""
        assert ended.err
        assert "user-0" not in ended.err
        assert set(tmp_path.iterdir()) == before

    assert offenders(options, check) == []


def test_failed_delivery_leaves_no_control_group_list(
    command: Commands, ranking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def failing(source: str, target: str, **folders: int) -> None:
        if target == "out":
            raise OSError(5, "Input/output error")
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", failing)
    before = set(tmp_path.iterdir())
    arguments = ("export", "--ranking", ranking, "--size", "10%", "--out", tmp_path / "out", "--holdout", "10%")
    assert command(*arguments).code == 2
    assert set(tmp_path.iterdir()) == before
    monkeypatch.undo()
    assert command(*arguments).code == 0


def test_destination_that_accepts_none_of_the_ids(command: Commands, ranking: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.csv"
    ids.write_text("user_id,hashed_email\nuser-000," + "a" * 64 + "\n")
    arguments = ("export", "--ranking", ranking, "--size", "10%", "--out", tmp_path / "out", "--ids", ids)
    ended = command(*arguments, "--destination", "google")
    assert ended.code == 2
    assert ended.err.startswith("cleanroom: Google Customer Match normalises e-mail addresses differently")
    assert command(*arguments, "--destination", "meta").code == 0
    assert lines(tmp_path / "out") == ["email", "a" * 64]


def test_existing_folder_is_kept(command: Commands, ranking: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    ended = command("export", "--ranking", ranking, "--size", "10%", "--out", tmp_path / "out")
    assert ended.code == 2
    assert list((tmp_path / "out").iterdir()) == []


# --- Ids as people's exports have them ---


def exported(command: Commands, folder: Path, ranking: object, ids: object, name: str = "out") -> list[str]:
    """The sorted lines of a delivery to TikTok, whose hashes are those of our normal forms."""
    arguments = ("export", "--size", "100%", "--destination", "tiktok")
    ended = command(*arguments, "--ranking", ranking, "--ids", ids, "--out", folder / name)
    assert ended.code == 0, ended.err
    return sorted(lines(folder / name)[1:])


def hashes(*texts: str) -> list[str]:
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


@pytest.mark.parametrize(
    "header",
    [
        "user_id,Email,First Name,Email,Phone,Phone",
        "user_id,email,name,email_2,phone,phone_2",
        "user_id,Email,Zip,Email.1,Phone,Phone.1",
        "User_ID,E-Mail,x,Email 2,Mobile,Mobile 2",
        "user_id,email,x,email2,phone_number,telephone",
    ],
)
def test_all_columns_of_e_mails_and_phones_are_used(command: Commands, tmp_path: Path, header: str) -> None:
    (tmp_path / "ids.csv").write_text(f"{header}\n1,a@x.ch,A,b@x.ch,+41791234567,\n2,c@x.ch,B,,,+41791234568\n")
    (tmp_path / "ranking.csv").write_text("user_id\n1\n2\n")
    found = exported(command, tmp_path, tmp_path / "ranking.csv", tmp_path / "ids.csv")
    emails, phones = hashes("a@x.ch", "b@x.ch", "c@x.ch"), hashes("+41791234567", "+41791234568")
    assert found == sorted([*(f"{each}," for each in emails), *(f",{each}" for each in phones)])


USER_IDS = {
    "int.csv": "100454\n7\n",
    "tails.csv": "100454.0\n7.0\n",
    "gaps.csv": '100454.0\n7.0\n""\nnan\n',
    "spaces.csv": "100454 \n  7\n",
    "int.parquet": pa.array([100454, 7]),
    "double.parquet": pa.array([100454, 7, None], pa.float64()),
    "text.parquet": pa.array(["100454", "7"]),
    "decimal.parquet": pa.array([100454, 7]).cast(pa.decimal128(38, 0)),
}


def table_of_users(folder: Path, name: str, values: Any, *, email: bool) -> Path:
    folder.mkdir(exist_ok=True)
    if isinstance(values, str):
        rows = [f"{user},{number}@x.ch" if email else user for number, user in enumerate(values.splitlines())]
        (folder / name).write_text("\n".join(["user_id,email" if email else "user_id", *rows]))
    else:
        emails = {"email": [f"{number}@x.ch" for number in range(len(values))]} if email else {}
        pq.write_table(pa.table({"user_id": values, **emails}), folder / name)
    return folder / name


@pytest.mark.parametrize("name", USER_IDS)
def test_one_rule_for_user_ids_of_both_files(command: Commands, tmp_path: Path, name: str) -> None:
    expected = sorted(hashes("0@x.ch", "1@x.ch"))
    for turn, (ranked, listed) in enumerate([(name, "int.csv"), ("int.csv", name)]):
        ranking = table_of_users(tmp_path / "rankings", ranked, USER_IDS[ranked], email=False)
        ids = table_of_users(tmp_path / "ids", listed, USER_IDS[listed], email=True)
        assert exported(command, tmp_path, ranking, ids, f"out{turn}") == expected


@pytest.mark.parametrize(
    "values",
    [
        "100454.0\nabc\n",
        "1.0\n1.5\n",
        pa.array([1.5, 2.0]),
        pa.array([1e20, 2.0]),
        pa.array([True, False]),
        pa.array([["a"], ["b"]]),
        pa.array([{"anna@example.com": 1}]),
    ],
)
def test_user_ids_that_could_mean_others_are_rejected(command: Commands, tmp_path: Path, values: Any) -> None:
    name = "users.csv" if isinstance(values, str) else "users.parquet"
    users = table_of_users(tmp_path / "a", name, values, email=True)
    plain = table_of_users(tmp_path / "b", "plain.csv", "1\n2\n", email=True)
    arguments = ("export", "--size", "100%", "--destination", "meta", "--out", tmp_path / "out")
    for ranking, ids in ((users, plain), (plain, users)):
        ended = command(*arguments, "--ranking", ranking, "--ids", ids)
        assert (ended.code, ended.out) == (2, "")
        assert "as text" in ended.err
        assert "anna" not in ended.err
        assert not (tmp_path / "out").exists()


def test_a_user_id_that_occurs_twice_is_rejected(command: Commands, ranking: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("user_id,email,USER_ID\n1,a@x.ch,2\n")
    arguments = ("export", "--ranking", ranking, "--size", "5", "--destination", "meta", "--out", tmp_path / "out")
    ended = command(*arguments, "--ids", tmp_path / "ids.csv")
    assert ended.code == 2
    assert "more than once" in ended.err


def test_phones_that_became_decimals_keep_their_number(command: Commands, tmp_path: Path) -> None:
    ranking = table_of_users(tmp_path, "ranking.csv", "1\n2\n3\n", email=False)
    ids = tmp_path / "ids.csv"
    ids.write_text("user_id,phone\n1,41791234567.0\n2,41791234568\n3,\n")
    both = sorted(hashes("+41791234567", "+41791234568"))
    assert exported(command, tmp_path, ranking, ids, "whole") == both
    ids.write_text("user_id,phone\n1,41791234567.0\n2,+41 79 123 45 68\n3,x\n")
    assert exported(command, tmp_path, ranking, ids, "mixed") == hashes("+41791234568")
    table = {"user_id": [1, 2, 3], "phone": pa.array([41791234567, 41791234568, None], pa.float64())}
    pq.write_table(pa.table(table), tmp_path / "ids.parquet")
    assert exported(command, tmp_path, ranking, tmp_path / "ids.parquet", "double") == both


def test_placeholders_are_not_ids(command: Commands, tmp_path: Path) -> None:
    ranking = table_of_users(tmp_path, "ranking.csv", "1\n2\nNULL\n", email=False)
    empty = hashlib.sha256(b"").hexdigest().upper()
    ids = tmp_path / "ids.csv"
    ids.write_text(f"user_id,hashed_email\n1,{'a' * 64}\n2,{empty}\nNULL,{'b' * 64}\n")
    assert exported(command, tmp_path, ranking, ids) == ["a" * 64]


@pytest.mark.parametrize(
    ("listed", "warning"),
    [
        (
            "u1,a@x.ch\n",
            "None of the 2 users of the list are in the ids file. 1 of them would match without",
        ),
        ("x,a@x.ch\n", "The two tables seem to hold different kinds of ids."),
        ("U1,nobody\n", "The users of the list have no valid ids in the ids file."),
    ],
)
def test_an_empty_delivery_says_why(command: Commands, tmp_path: Path, listed: str, warning: str) -> None:
    ranking = table_of_users(tmp_path, "ranking.csv", "U1\nU2\n", email=False)
    (tmp_path / "ids.csv").write_text(f"user_id,email\n{listed}")
    arguments = ("export", "--ranking", ranking, "--size", "2", "--destination", "tiktok", "--out", tmp_path / "o")
    ended = command(*arguments, "--ids", tmp_path / "ids.csv")
    assert ended.code == 0, ended.err
    assert "0 users in" in ended.out
    assert warning in ended.out
