"""Reading declaration files.

Contract: an invalid declaration is rejected with one sentence that names the place and never quotes a value; a
hostile file is rejected quickly. YAML values are read as their author meant them.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.declarations import read_declaration
from cleanroom_pipelines.declarations.form import PARTY_SECTIONS, SECTIONS, parse_duration, parse_moment
from cleanroom_pipelines.errors import UsageError

from ..cases import assert_each
from .conftest import Room, worded

CANARY = "canary-7f3a"
EXAMPLE = Path(__file__).parents[2] / "data" / "example" / "cleanroom.yaml"


def assert_rejected(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_declaration(path)
    assert caught.value.remedy
    message = str(caught.value)
    assert CANARY not in message
    assert "\n" not in message
    assert caught.value.__cause__ is None
    return message


def test_example_is_valid() -> None:
    example = read_declaration(EXAMPLE)
    assert example.folder == EXAMPLE.parent
    assert {section: len(getattr(example, section)) for section in SECTIONS} == {
        **dict.fromkeys(SECTIONS, 1),
        **dict.fromkeys(PARTY_SECTIONS, 0),
    }
    (model,) = example.audience_models
    assert model.window.end == datetime(2017, 10, 30, tzinfo=UTC).timestamp()
    assert model.refresh is not None
    assert (model.refresh.every, model.refresh.window) == (7 * 86_400, 300 * 86_400)
    assert example.configured_audience_models[0].sizes == ["1%", "5%", "10%", "20%"]


def test_minimal_example_declares_one_of_each() -> None:
    minimal = read_declaration(EXAMPLE.with_name("minimal.yaml"))
    declared = [section for section in SECTIONS if getattr(minimal, section)]
    assert declared == [section for section in SECTIONS if section not in PARTY_SECTIONS]
    (configured,) = minimal.configured_audience_models
    assert (
        configured.minimum_matching_seed_size
        == type(configured).model_fields["minimum_matching_seed_size"].default
    )


def test_numbers_are_accepted_as_names_and_sizes(room: Room) -> None:
    room.raw["training_datasets"][0]["name"] = 2024
    room.raw["audience_models"][0]["training_dataset"] = 2024
    room.raw["configured_audience_models"][0]["sizes"] = [500, 5_000]
    declaration = read_declaration(room.write())
    assert declaration.training_datasets[0].name == declaration.audience_models[0].training_dataset == "2024"
    assert declaration.configured_audience_models[0].sizes == ["500", "5000"]


MISTAKES = [
    ("training_datasets.0.sorce", CANARY, "training_datasets.0.sorce"),
    ("training_dataset", [CANARY], "training_dataset"),
    ("account", [CANARY], "account"),
    ("account", 12, "account"),
    ("account", 0, "account"),
    ("region", 5, "region"),
    ("accounts", [{"name": "alpha", "secret": CANARY}], "accounts.0.secret"),
    ("accounts", [{"name": "alpha", "id": 1234}], "accounts.0.id"),
    ("collaborations", [{"name": "alpha"}], "collaborations.0.members"),
    ("collaborations", [{"name": "alpha", "members": []}], "collaborations.0.members"),
    ("templates", [{"name": "alpha"}], "templates.0.sql"),
    ("buckets", [{"name": "alpha", "profile": CANARY}], "buckets.0.profile"),
    ("folder", f"/etc/{CANARY}", "folder"),
    ("training_datasets.0.columns.user", CANARY, "training_datasets.0.columns.user"),
    ("training_datasets.0.columns", [CANARY], "training_datasets.0.columns"),
    ("training_datasets.0.source", 5, "training_datasets.0.source"),
    ("training_datasets.0.name", True, "training_datasets.0.name"),
    ("training_datasets.0.name", [CANARY], "training_datasets.0.name"),
    ("training_datasets.0.max_invalid_share", CANARY, "training_datasets.0.max_invalid_share"),
    ("training_datasets.0.max_invalid_share", True, "training_datasets.0.max_invalid_share"),
    ("training_datasets.0.users", {"source": CANARY}, "training_datasets.0.users.columns"),
    ("training_datasets.0.tags", {"team": 5}, "training_datasets.0.tags.team"),
    ("training_datasets.0.description", [CANARY], "training_datasets.0.description"),
    ("training_datasets", CANARY, "training_datasets"),
    ("training_datasets", None, "training_datasets"),
    ("training_datasets.0", CANARY, "training_datasets.0"),
    ("audience_models.0.window.end", CANARY, "audience_models.0.window.end"),
    ("audience_models.0.window.end", "2017-13-45", "audience_models.0.window.end"),
    ("audience_models.0.window.end", True, "audience_models.0.window.end"),
    ("audience_models.0.window.end", 1.5, "audience_models.0.window.end"),
    ("audience_models.0.refresh", {"every": CANARY}, "audience_models.0.refresh.every"),
    ("audience_models.0.refresh", {"every": 7}, "audience_models.0.refresh.every"),
    ("audience_models.0.refresh", {"every": "7 days"}, "audience_models.0.refresh.every"),
    ("audience_models.0.refresh", {"every": "-7d"}, "audience_models.0.refresh.every"),
    ("audience_models.0.refresh", {}, "audience_models.0.refresh.every"),
    ("configured_audience_models.0.sizes", [], "configured_audience_models.0.sizes"),
    ("configured_audience_models.0.sizes", "5%", "configured_audience_models.0.sizes"),
    ("configured_audience_models.0.sizes", [0.05], "configured_audience_models.0.sizes.0"),
    ("configured_audience_models.0.output", f"file:///{CANARY}", "configured_audience_models.0.output"),
    ("configured_audience_models.0.output", f"s3://b/../{CANARY}", "configured_audience_models.0.output"),
    ("configured_audience_models.0.export_format", CANARY, "configured_audience_models.0.export_format"),
    ("configured_audience_models.0.share_metrics", CANARY, "configured_audience_models.0.share_metrics"),
    (
        "configured_audience_models.0.minimum_matching_seed_size",
        "25",
        "configured_audience_models.0.minimum_matching_seed_size",
    ),
    ("generation_jobs.0.seed_mode", CANARY, "generation_jobs.0.seed_mode"),
    ("generation_jobs.0.keep_seed", "perhaps", "generation_jobs.0.keep_seed"),
    ("generation_jobs.0.exports", "5%", "generation_jobs.0.exports"),
    ("x" * 300, CANARY, "x" * 60),
    ("a\nb", CANARY, "a?b"),
]


def test_location_of_a_mistake_is_named(room: Room, edit: Any) -> None:
    def is_named(place: str, value: Any, said: str) -> None:
        room.start_over()
        edit(place, value)
        message = assert_rejected(room.write())
        assert f"wrong at {worded(room.raw, said)}: " in message
        assert "nothing was changed" in message

    assert_each(is_named, MISTAKES)


def test_missing_key_is_named(room: Room) -> None:
    def is_named(key: str) -> None:
        room.start_over()
        del room.raw["training_datasets"][0][key]
        path = room.write()
        assert f"wrong at {worded(room.raw, f'training_datasets.0.{key}')}: " in assert_rejected(path)

    assert_each(is_named, ["name", "source", "columns"])


def test_duplicate_names_are_rejected(room: Room) -> None:
    room.raw["audience_models"].append({"name": "Shoppers", "training_dataset": "Baskets"})
    assert "the audience model 'Shoppers': another entry has this name" in assert_rejected(room.write())


def test_plain_name_as_output_is_rejected_with_an_example(room: Room, edit: Any) -> None:
    edit("configured_audience_models.0.output", "exports/lookalikes")
    message = assert_rejected(room.write())
    assert "the configured audience model 'Partners', output: the destination does not have the form" in message
    assert "Write s3://audiences/NAME for a folder in CLEANROOM_HOME" in message


def test_output_with_an_umlaut_is_rejected_with_the_allowed_characters(room: Room, edit: Any) -> None:
    edit("configured_audience_models.0.output", "s3://audiences/ähnliche")
    assert "may contain the letters a to z and A to Z, digits, spaces and !_.*'()=,@+:-" in assert_rejected(
        room.write()
    )


def test_file_from_an_editor_on_windows(room: Room) -> None:
    """A byte order mark is skipped; Windows-1252 is named as what it is."""
    room.raw["audience_models"][0]["description"] = "Käufer"
    path = room.write()
    text = yaml.safe_dump(room.raw, allow_unicode=True)
    path.write_text(text, encoding="utf-8-sig")
    assert read_declaration(path).audience_models[0].description == "Käufer"
    path.write_text(text, encoding="cp1252")
    assert assert_rejected(path) == "The declaration file is not in UTF-8. Save it as UTF-8."


def test_same_name_in_two_sections_is_allowed(room: Room) -> None:
    room.raw["audience_models"][0]["name"] = "Baskets"
    read_declaration(room.write())


def test_file_that_declares_nothing(tmp_path: Path) -> None:
    def is_rejected(content: bytes) -> None:
        (tmp_path / "d.yaml").write_bytes(content)
        assert "declares nothing" in assert_rejected(tmp_path / "d.yaml")

    assert_each(is_rejected, [b"", b"# nothing\n", b"[]", b"just text", b"5", b"null"])


def test_columns_may_have_names_that_yaml_reads_as_other_values(tmp_path: Path) -> None:
    columns = "{user_id: USER_ID, no: ITEM_ID, on: TIMESTAMP, 2023: NUMERICAL_FEATURE, ~: CATEGORICAL_FEATURE}"
    (tmp_path / "d.yaml").write_text(f"training_datasets:\n- {{name: D, source: x.csv, columns: {columns}}}")
    (dataset,) = read_declaration(tmp_path / "d.yaml").training_datasets
    assert list(dataset.columns) == ["user_id", "no", "on", "2023", "~"]


NO_YAML = [
    ("a: [1, 2", "line"),
    (f"a: 1\nb: {{\n  {CANARY}", "line"),
    ("a: b: c", "line 1"),
    ("\tx: 1", "line 1"),
    ("a: *nowhere", "line 1"),
    ("a: 1\n---\nb: 2", "line"),
    (f"a: !!python/object/apply:os.system [{CANARY}]", "line 1"),
    (f"a: !!int {CANARY}", "type"),
    (f"a: !!timestamp {CANARY}", "type"),
    (f"a: !!bool {CANARY}", "type"),
    ("? [a]\n: b", "line"),
    (f"training_datasets: []\nx: {CANARY}\ntraining_datasets: []", "Duplicate key in the declaration at line 3"),
    (f"training_datasets:\n- name: {CANARY}\n  name: b", "Duplicate key in the declaration at line 3"),
    ("a: &a [*a]", "itself at line 1"),
    ("[" * 5_000, "deeply"),
    ("a: " + "{b: " * 2_000, "deeply"),
    ("\x07", "Invalid YAML"),
]


def test_invalid_yaml(tmp_path: Path) -> None:
    def is_rejected(content: str, said: str) -> None:
        (tmp_path / "d.yaml").write_text(content)
        assert said in assert_rejected(tmp_path / "d.yaml")

    assert_each(is_rejected, NO_YAML)


def bomb(first: str, line: str) -> str:
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} " + line.format(", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 12)]
    return "\n".join(lines)


def test_yaml_bomb_is_rejected_at_once(tmp_path: Path) -> None:
    def is_rejected(_: str, content: str) -> None:
        (tmp_path / "d.yaml").write_text(content)
        # 9 to the 11th entries, written out, would take hours
        assert "large" in assert_rejected(tmp_path / "d.yaml")

    many = "a: &a [" + "x," * 1_000 + "x]\nb: [" + "*a," * 199 + "*a]"
    assert_each(
        is_rejected,
        [
            ("lists", bomb("[x, x, x]", "[{}]")),
            ("merges", bomb("{k: v}", "{{<<: [{}]}}")),
            ("just too many", many),
        ],
    )


def test_alias_is_allowed(room: Room) -> None:
    path = room.write()
    path.write_text(
        "training_datasets:\n"
        "- {name: a, source: a.csv, columns: &columns {u: USER_ID, i: ITEM_ID}}\n"
        "- {name: b, source: b.csv, columns: {<<: *columns, t: TIMESTAMP}}\n"
    )
    first, second = read_declaration(path).training_datasets
    assert second.columns == {**first.columns, "t": "TIMESTAMP"}


def test_file_that_is_not_text(tmp_path: Path) -> None:
    def is_rejected(content: bytes) -> None:
        (tmp_path / "d.yaml").write_bytes(content)
        assert_rejected(tmp_path / "d.yaml")

    assert_each(is_rejected, [b"\xff\xfe\x00", b"a: \xff", b"x" * 2_000_000])


def test_missing_file(tmp_path: Path) -> None:
    def is_rejected(name: str) -> None:
        assert "cannot be read" in assert_rejected(tmp_path / name)

    assert_each(is_rejected, ["missing.yaml", "."])


def test_durations_are_parsed() -> None:
    def is_read(text: str, seconds: int) -> None:
        assert parse_duration(text) == seconds

    assert_each(is_read, [("30m", 1_800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), (" 5 s", 5)])


def test_times_are_parsed() -> None:
    def is_read(value: object, moment: int) -> None:
        assert parse_moment(value) == moment

    assert_each(
        is_read,
        [
            (1_509_321_600, 1_509_321_600),
            ("2017-10-30", 1_509_321_600),
            ("2017-10-30T00:00:00Z", 1_509_321_600),
            ("2017-10-30 01:00:00+01:00", 1_509_321_600),
            ("1969-12-31", -86_400),
        ],
    )


@given(st.one_of(st.text(max_size=20), st.floats(), st.none(), st.booleans(), st.dates().map(str)))
def test_time_is_parsed_or_rejected_with_a_fixed_sentence(value: object) -> None:
    try:
        assert isinstance(parse_moment(value), int)
    except ValueError as error:
        assert str(error).startswith("write a time as")


def test_parties_have_separate_names(room: Room) -> None:
    def is_rejected(section: str, forms: Any) -> None:
        room.start_over()
        room.raw[section] = forms
        assert f"wrong at the {section[:-1]} 'alpha': another entry has" in assert_rejected(room.write())

    assert_each(
        is_rejected,
        [
            ("accounts", [{"name": "alpha"}, {"name": "alpha"}]),
            ("collaborations", [{"name": "alpha", "members": ["a"]}] * 2),
            ("templates", [{"name": "alpha", "sql": "a"}, {"name": "alpha", "sql": "b"}]),
            ("buckets", [{"name": "alpha"}, {"name": "alpha", "account": "a"}]),
        ],
    )


def test_templates_of_two_accounts_may_share_a_name(room: Room) -> None:
    room.raw["templates"] = [{"name": "n", "sql": "a"}, {"name": "n", "sql": "a", "account": "other"}]
    assert len(read_declaration(room.write()).templates) == 2


def test_account_ids_may_be_numbers(room: Room) -> None:
    room.raw["account"] = 111122223333
    room.raw["accounts"] = [{"name": "a", "id": 111122223333}]
    declaration = read_declaration(room.write())
    assert declaration.account == declaration.accounts[0].id == "111122223333"
    path = room.folder / "octal.yaml"
    path.write_text("account: 012345670123\n")
    assert "quotes" in assert_rejected(path)
