"""Contract: a catalogue that an older version filled opens with everything in it, and can be used."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import cleanroom_pipelines.catalog as package
from cleanroom_pipelines.catalog import (
    LOCAL_ACCOUNT,
    Catalog,
    GenerationJob,
    Kind,
    LedgerLine,
    NewPasskey,
    RequestedSeed,
    Status,
    configured_at_start,
)
from cleanroom_pipelines.catalog.database import HEAD_REVISION, VERSION_TABLE
from cleanroom_pipelines.privacy.accounting import RHO_OF_TENTH
from cleanroom_pipelines_tests.databases import reading, writing

from .building import SEED_DIGEST, Builder, Clock, Numbered, export_spec, job_spec
from .dialects import on_both_dialects

AT = "2026-02-01 10:00:00.000000+00:00"


def migrations(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(package.__file__).parent / "migrations"))
    config.attributes.update(connection=connection, version_table=VERSION_TABLE)
    return config


def fill_first_schema(connection: Connection) -> None:
    """A chain as 0001 held it: all ACTIVE, the job from the inbox with a kept seed, two exports."""
    chain = [
        ("d-000000000001", "training_dataset", None, ""),
        ("m-000000000002", "audience_model", "d-000000000001", ""),
        ("c-000000000003", "configured_audience_model", "m-000000000002", ""),
        ("j-000000000004", "generation_job", "c-000000000003", ""),
        ("e-000000000005", "export_job", "j-000000000004", "j-000000000004"),
        ("e-000000000006", "export_job", "j-000000000004", "j-000000000004"),
    ]
    for key, kind, parent, scope in chain:
        connection.execute(
            text(
                "INSERT INTO resources (id, kind, account_id, region, scope, name, parent_id, tags, status, "
                "created_at, updated_at, declared, spec_digest, current_version) VALUES (:id, :kind, :account, "
                "'us-east-1', :scope, :name, :parent, '{}', 'ACTIVE', :at, :at, :declared, 'd', 1)"
            ),
            {
                "id": key,
                "kind": kind,
                "account": LOCAL_ACCOUNT,
                "scope": scope,
                "name": key[:1] + key[-1],
                "parent": parent,
                "at": AT,
                "declared": True,
            },
        )
        connection.execute(
            text(
                "INSERT INTO versions (resource_id, number, kind, status, cause, artifacts, parents, summary, "
                "params, created_at, attempt, turn, progress, progress_stage, cancel_requested) VALUES "
                "(:id, 1, :kind, 'ACTIVE', 'created', '{}', '[]', '{}', '{}', :at, 1, 0, 1.0, '', :no)"
            ),
            {"id": key, "kind": kind, "at": AT, "no": False},
        )
    size = '{"type": "PERCENTAGE", "value": 5}'
    for statement in (
        "INSERT INTO training_datasets (id, source, columns, users_columns, max_invalid_share) VALUES "
        "('d-000000000001', 's', '[[\"u\", \"USER_ID\"], [\"i\", \"ITEM_ID\"]]', '[]', 0.05)",
        "INSERT INTO audience_models (id) VALUES ('m-000000000002')",
        "INSERT INTO configured_audience_models (id, sizes, output_url, min_matching_seed_size, share_metrics, "
        f"share_explanation, export_format, child_tag_policy) VALUES ('c-000000000003', '[{size}]', 's3://b/o', "
        "500, 'NONE', (1 = 0), 'jsonl', 'NONE')",
        "INSERT INTO generation_jobs (id, inbox_model_id, seed_location, seed_digest, seed_name, seed_bytes, "
        "seed_mode, keep_seed, export_size, origin, started_by) VALUES ('j-000000000004', 'c-000000000003', "
        f"'kept/1', '{SEED_DIGEST}', 'spring', 9, 'excluded', (1 = 1), '\"largest\"', 'inbox', '{LOCAL_ACCOUNT}')",
        f"INSERT INTO export_jobs (id, size, output_location) VALUES ('e-000000000005', '{size}', 's3://b/o/5')",
        f"INSERT INTO export_jobs (id, size) VALUES ('e-000000000006', '{size}')",
    ):
        connection.exec_driver_sql(statement.replace("%", "%%"))


@pytest.fixture
def first_schema(empty_url: str) -> str:
    """The URL of a catalogue that 0001 made and filled."""
    with writing(empty_url) as session:
        connection = session.connection()
        command.upgrade(migrations(connection), "0001")
        fill_first_schema(connection)
    return empty_url


@on_both_dialects
def test_upgrade_keeps_the_data_of_the_first_schema(first_schema: str, clock: Clock) -> None:
    catalog = Catalog(first_schema, clock=clock, token_hex=Numbered())
    for kind in Kind:
        for record in catalog.resources.list(kind).items:
            assert record.status is Status.ACTIVE
            assert len(catalog.resources.versions(kind, record.id)) == 1
            assert configured_at_start(catalog.resources.newest_version(kind, record.id)) is None
    (job,) = catalog.resources.list(Kind.GENERATION_JOB).items
    assert isinstance(job, GenerationJob)
    assert (job.seed_location, job.seed_digest, job.seed_name, job.seed_bytes) == (
        "kept/1",
        SEED_DIGEST,
        "spring",
        9,
    )
    assert (job.keep_seed, job.export_size, job.origin, job.requested_seed) == (True, "largest", "inbox", None)
    exports = catalog.resources.list(Kind.EXPORT_JOB).items
    assert [(export.started_by, export.output_location) for export in exports] == [
        (LOCAL_ACCOUNT, "s3://b/o/5"),
        (LOCAL_ACCOUNT, None),
    ]
    assert catalog.parties.accounts() == catalog.parties.buckets() == catalog.parties.collaborations() == ()
    with reading(first_schema) as session:
        assert session.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) == HEAD_REVISION
    catalog.database.close()


@on_both_dialects
def test_upgraded_catalogue_is_usable(first_schema: str, clock: Clock) -> None:
    catalog = Catalog(first_schema, clock=clock, token_hex=Numbered())
    builder = Builder(catalog, clock, declared=False)
    wanted = RequestedSeed(role_arn="r", s3_uri="s3://b/k")
    new = builder.create(job_spec("c-000000000003", seed_location=None, seed_digest=None, requested_seed=wanted))
    builder.create(export_spec("j-000000000004", "another"))
    builder.drain()
    assert {job.id for job in catalog.resources.list(Kind.GENERATION_JOB).items} == {"j-000000000004", new.id}
    assert len(catalog.resources.list(Kind.EXPORT_JOB, parent_id="j-000000000004").items) == 3
    # The rules of the rebuilt table hold still: one drop, one job; and the job goes with all that is its.
    catalog.deletion.request_delete(Kind.GENERATION_JOB, "j-000000000004")
    catalog.deletion.begin_delete(Kind.GENERATION_JOB, "j-000000000004")
    catalog.deletion.finish_delete(Kind.GENERATION_JOB, "j-000000000004")
    with reading(first_schema) as session:
        assert session.scalar(text("SELECT count(*) FROM generation_jobs")) == 1
        assert session.scalar(text("SELECT count(*) FROM export_jobs")) == 0
    catalog.database.close()


# the ledgers of the last release

PARTICIPANTS = [
    {"id": "aa", "emails": ["data@publisher.example"], "permissions": ["PROVIDE_BASE_AUDIENCE"]},
    {
        "id": "bb",
        "emails": ["crm@advertiser.example", "two@advertiser.example"],
        "permissions": ["PROVIDE_SEED_AUDIENCE"],
    },
    {"id": "cc", "emails": ["plans@agency.example"], "permissions": ["VIEW_OVERLAP"]},
]
MAIL = [
    {"id": "aa", "emails": ["data@publisher.example"], "permissions": ["PROVIDE_BASE_AUDIENCE"]},
    {"id": "bb", "emails": ["one@gmail.com"], "permissions": ["PROVIDE_SEED_AUDIENCE"]},
]
OLD_LEDGER = (
    # room, participant, units
    ("r-000000000001", "bb", 3),
    ("r-000000000001", "cc", 4),
    ("r-000000000001", "aa", -50),  # a refill
    ("r-000000000002", "bb", 2),
    ("r-000000000003", "bb", 26),
    ("r-000000000004", "bb", 9),  # its room was deleted
)


def fill_last_schema(connection: Connection) -> None:
    """Two rooms of one pair, one of another, and what their participants had spent."""
    for key, participants in (
        ("r-000000000001", PARTICIPANTS),
        ("r-000000000002", PARTICIPANTS),
        ("r-000000000003", MAIL),
    ):
        connection.execute(
            text(
                "INSERT INTO resources (id, kind, account_id, region, scope, name, tags, status, created_at, "
                "updated_at, declared, spec_digest) VALUES (:id, 'data_room', :account, 'us-east-1', :id, 'room', "
                "'{}', 'CREATE_PENDING', :at, :at, :no, 'd')"
            ),
            {"id": key, "account": LOCAL_ACCOUNT, "at": AT, "no": False},
        )
        connection.execute(
            text(
                "INSERT INTO data_rooms (id, mark, owner_email, participants, collaboration_types, matching_ids, "
                "hide_absolute_values, activation, inputs, n_embeddings) VALUES (:id, :id, "
                "'data@publisher.example', :participants, '[]', '[\"EMAIL\"]', :no, '[]', '{}', 0)"
            ),
            {"id": key, "participants": json.dumps(participants), "no": False},
        )
    for number, (room, participant, units) in enumerate(OLD_LEDGER):
        connection.execute(
            text(
                "INSERT INTO privacy_ledger (data_room_id, participant_id, question, units, created_at) VALUES "
                "(:room, :participant, :question, :units, :at)"
            ),
            {"room": room, "participant": participant, "question": f"{number:064d}", "units": units, "at": AT},
        )


@pytest.fixture
def last_schema(empty_url: str) -> str:
    """The URL of a catalogue of the last release, with data rooms that were asked."""
    with writing(empty_url) as session:
        connection = session.connection()
        command.upgrade(migrations(connection), "0005")
        fill_last_schema(connection)
    return empty_url


@on_both_dialects
def test_spending_of_participants_moves_to_their_pair(last_schema: str, clock: Clock) -> None:
    """One unit of before is 0.1-differentially private, so rho = 0.005: 3.9 units of today, rounded up to 4."""
    assert Fraction(1, 10) ** 2 / 2 / (10 * RHO_OF_TENTH) == Fraction(5000, 1280)
    catalog = Catalog(last_schema, clock=clock, token_hex=Numbered())
    found = {each.organizations: catalog.pairs.ledger(each.id) for each in catalog.pairs.all()}
    assert {pair: (ledger.spent, ledger.total, ledger.period) for pair, ledger in found.items()} == {
        ("advertiser.example", "publisher.example"): (360, 1000, ""),
        ("one@gmail.com", "publisher.example"): (1000, 1000, ""),
    }
    pair = catalog.pairs.pair("publisher.example", "advertiser.example")
    (line,) = catalog.pairs.ledger_lines(pair.id)
    assert (line.kind, line.tenths, line.variance) == ("before", 360, None)
    assert catalog.pairs.charge(pair.id, [LedgerLine("a" * 64, "size", 640)]) is not None
    assert catalog.pairs.charge(pair.id, [LedgerLine("b" * 64, "size", 1)]) is None
    catalog.database.close()


@on_both_dialects
def test_upgrade_keeps_how_users_sign_in(empty_url: str, clock: Clock) -> None:
    """From the last schema without passkeys."""
    user, at = "ana@publisher.example", clock().isoformat(" ")
    with writing(empty_url) as session:
        connection = session.connection()
        command.upgrade(migrations(connection), "0010")
        for statement in (
            "INSERT INTO users (email, created_at, disabled, password, is_operator) "
            "VALUES (:user, :at, :no, 'p', :no)",
            "INSERT INTO sessions (digest, email, created_at, used_at) VALUES ('d', :user, :at, :at)",
        ):
            connection.execute(text(statement), {"user": user, "at": at, "no": False})
    catalog = Catalog(empty_url, clock=clock, token_hex=Numbered())
    sign_in = catalog.sign_in
    assert (sign_in.password(user), sign_in.passkeys(user), sign_in.can_sign_in(user)) == ("p", (), True)
    assert sign_in.session("d") is not None
    sign_in.add_passkey(user, NewPasskey("phone", "credential", b"key", 0))
    catalog.database.close()
