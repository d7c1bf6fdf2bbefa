"""What scripts for Decentriq's Media API use besides its documented classes.

Contract: the calls exist with these parameters in this order; what is accepted without effect has none, and what
cannot be done is rejected by name. The facts were copied from the other package's signatures manually.
"""

import hashlib
import inspect
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

import cleanroom_pipelines
from cleanroom_pipelines import data_lab, media
from cleanroom_pipelines.media import (
    Client,
    CollaborationType,
    DataLab,
    DataLabBuilder,
    DataLabDatasetType,
    IdentifiersConfig,
    IdType,
    InvalidRequestError,
    Key,
    MatchingId,
    MediaDcr,
    NotProvisionedError,
    Participant,
    Permission,
    UnauthorizedError,
    create_client,
)
from cleanroom_pipelines.media.compute_job import MediaComputeJob

from ..cases import assert_each
from .fake_server import Answer, FakeServer, serving

TOKEN = "tok-9f8e7d6c5b4a"
ROOM: dict[str, Any] = {
    "id": "room1",
    "name": "Wine",
    "owner_email": "p@example.com",
    "participants": [
        {"id": "1", "emails": ["p@example.com"], "role": "publisher", "permissions": ["MANAGE_USERS"]}
    ],
    "collaboration_types": ["ENABLE_OVERLAP"],
    "matching_ids": ["EMAIL"],
    "activation": ["google"],
}
# call: parameters in order; `*` before the first keyword-only one
CALLS: list[tuple[Any, str, str]] = [
    (cleanroom_pipelines, "create_client", "user_email api_token * client_id api_host api_port api_use_tls "
     "request_timeout unsafe_disable_known_root_ca_check"),
    (Client, "upload_dataset", "data key file_name * description chunk_size parallel_uploads usage "
     "secret_store_options is_accessory"),
    (MediaDcr, "__init__", "client * name participants collaboration_types matching_ids hide_absolute_values "
     "show_match_rate"),
    (MediaDcr, "set_activation_id", "activation_id"),
    (MediaDcr, "provision_base_audience", "data_lab_id * force"),
    (MediaDcr, "create_exclusion_targeting_audience", "definition"),
    (MediaDcr, "add_user_as_participant", "participant email permissions"),
    (MediaDcr, "remove_user_from_participant", "participant email"),
    (Participant, "__init__", "emails permissions role id organization_id member_permissions"),
    (MediaComputeJob, "wait_for_completion", "timeout sleep_interval"),
    (MediaComputeJob, "is_complete", ""),
    (MediaComputeJob, "run", ""),
    (MediaComputeJob, "get_result", ""),
    (MediaComputeJob, "get_result_as_zipfile", ""),
    (DataLabBuilder, "with_name", "name"),
    (DataLabBuilder, "with_disable_drop_invalid_rows", ""),
    (DataLabBuilder, "with_num_identifiers_columns", "num_identifiers_columns"),
    (DataLabBuilder, "with_identifiers_config", "identifiers_config"),
    (DataLabBuilder, "with_embeddings", "num_embeddings"),
    (DataLabBuilder, "with_collaboration_types", "collaboration_types"),
    (DataLabBuilder, "from_existing", "data_lab_id"),
    (DataLab, "provision_local_datasets", "key matching_data_path segments_data_path demographics_data_path "
     "embeddings_data_path * secret_store_options"),
    (DataLab, "provision_dataset", "manifest_hash key dataset_type"),
    (DataLab, "deprovision_dataset", "dataset_type"),
    (DataLab, "get_validation_report", "timeout"),
    (DataLab, "get_statistics_report", "timeout"),
    (IdentifiersConfig, "__init__", "id_name id_type is_matching_id is_activation_id"),
]  # fmt: skip


@pytest.fixture(scope="module")
def running_server() -> Any:
    with serving() as fake:
        yield fake


@pytest.fixture
def server(running_server: FakeServer) -> FakeServer:
    running_server.forget()
    running_server.answer("whoami", {"email": "a@example.com"})
    running_server.answer("get_room", ROOM)

    def keep(sent: Any) -> Answer:
        return Answer(body=b'{"result": {"manifest_hash": "%s"}}' % hashlib.md5(sent.body).hexdigest().encode())

    running_server.work_out("uploads", keep)
    return running_server


@pytest.fixture
def client(server: FakeServer) -> Any:
    with Client(server.url, TOKEN) as opened:
        yield opened


def ended(kind: str = "audience_size", **more: Any) -> dict[str, Any]:
    return {"id": "job1", "kind": kind, "room_id": "room1", "status": "Success", **more}


def test_a_call_has_the_parameters_of_the_other_api() -> None:
    def has_them(place: Any, name: str, parameters: str) -> None:
        positional, _, named = parameters.partition("*")
        ours = [
            each for each in inspect.signature(getattr(place, name)).parameters.values() if each.name != "self"
        ]
        ordered = [each.name for each in ours if each.kind is not inspect.Parameter.KEYWORD_ONLY]
        assert ordered[: len(positional.split())] == positional.split()
        assert set(named.split()) <= {each.name for each in ours}

    assert_each(has_them, CALLS)


def test_names_are_where_only_the_package_name_changes() -> None:
    assert cleanroom_pipelines.create_client is media.create_client
    assert cleanroom_pipelines.Key is media.Key
    with pytest.raises(AttributeError, match="no attribute"):
        _ = cleanroom_pipelines.nothing_of_that_name
    for name in data_lab.__all__:
        assert getattr(data_lab, name) is getattr(media, name)


def test_terms_are_written_as_in_the_other_api() -> None:
    assert str(Permission.VIEW_OVERLAP) == "Permission.VIEW_OVERLAP"
    assert str(CollaborationType.EXCLUSION_TARGETING) == "CollaborationType.EXCLUSION_TARGETING"
    assert CollaborationType.EXCLUSION is CollaborationType.EXCLUSION_TARGETING
    assert str(media.FilterOperator.CONTAINS_ANY) == "FilterOperator.CONTAINS_ANY"
    assert str(media.MatchOperator.MATCH_ALL) == "MatchOperator.MATCH_ALL"
    assert f"{MatchingId.EMAIL}" == MatchingId.EMAIL == "EMAIL"
    assert f"{MatchingId.EMAIL:>6}" == " EMAIL"
    assert len(IdType) == 14


def test_a_client_is_created(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    with create_client("A@Example.com", TOKEN, api_host=host, api_port=int(port), api_use_tls=False) as opened:
        assert opened.email == "a@example.com"
    monkeypatch.delenv("CLEANROOM_MEDIA_URL", raising=False)
    with pytest.raises(InvalidRequestError, match="CLEANROOM_MEDIA_URL"):
        create_client("a@example.com", TOKEN)
    monkeypatch.setenv("CLEANROOM_MEDIA_URL", server.url)
    assert create_client("a@example.com", TOKEN, request_timeout=5).email == "a@example.com"
    with pytest.raises(UnauthorizedError, match="another e-mail") as refused:
        create_client("b@example.com", TOKEN)
    assert TOKEN not in str(refused.value)


def test_a_key_is_accepted() -> None:
    assert len(Key().material) == 32
    assert Key(b"k" * 32).material == b"k" * 32
    with pytest.raises(InvalidRequestError):
        Key(b"short")


def test_an_upload_takes_a_key_and_a_name(server: FakeServer, client: Client) -> None:
    hash_ = client.upload_dataset(io.BytesIO(b"a"), Key(), "ours.csv", description="x", parallel_uploads=2)
    assert (hash_, server.sent[-1].query["name"]) == (hashlib.md5(b"a").hexdigest(), ["ours.csv"])


def test_kinds_of_ids_are_converted_or_rejected_by_name(server: FakeServer, client: Client) -> None:
    server.answer("create_room", ROOM)
    people = [Participant(["p@example.com"], [], "publisher")]

    def create(kind: Any) -> MediaDcr:
        types = [CollaborationType.OVERLAP]
        return MediaDcr(client, name="x", participants=people, collaboration_types=types, matching_ids=[kind])

    def is_converted(kind: IdType) -> None:
        create(kind)
        assert server.sent[-1].params["matching_ids"] == [kind.value]

    def is_rejected(kind: IdType) -> None:
        with pytest.raises(InvalidRequestError, match=f"Matching by {kind.value} is not supported"):
            create(kind)

    assert_each(is_converted, [IdType(kind.value) for kind in MatchingId])
    assert_each(is_rejected, [kind for kind in IdType if kind.value not in list(MatchingId)])
    with pytest.raises(InvalidRequestError, match="Unknown"):
        create("SHOE_SIZE")


def test_a_job_packs_its_result(server: FakeServer, client: Client) -> None:
    server.answer("start_job", ended())
    server.answer("get_job_result", {"size": 120})
    job = MediaDcr.from_existing("room1", client).get_audience_size(media.BaseAudience())
    assert (job.job_id, job.dcr_id, job.result(timeout=1)) == ("job1", "room1", {"userId": 120})
    with zipfile.ZipFile(io.BytesIO(job.get_result())) as archive:
        assert archive.read("result.json") == b'{"size": 120}'


def test_a_result_stops_waiting_and_says_why(server: FakeServer, client: Client) -> None:
    waiting = {**ended(), "status": "Running", "stage": "waiting", "place": 3}
    server.answer("start_job", waiting)
    server.answer("get_job", waiting)
    job = MediaDcr.from_existing("room1", client).get_audience_size(media.BaseAudience())
    with pytest.raises(media.JobTimeoutError, match="waiting, place 3 in the queue"):
        job.result(timeout=0)


def test_the_ids_of_lists_are_chosen_once(server: FakeServer, client: Client) -> None:
    server.answer("start_job", ended("user_list"))
    room = MediaDcr.from_existing("room1", client)
    room.set_activation_id("google")
    room.get_audience_user_list(media.SeedAudience("c"))
    assert server.sent[-1].params["options"] == {"destination": "google"}
    room.set_activation_id("userId")
    room.get_audience_user_list(media.SeedAudience("c"))
    assert server.sent[-1].params["options"] == {}
    with pytest.raises(InvalidRequestError, match="userId, google"):
        room.set_activation_id("meta")


def identifiers(**more: Any) -> IdentifiersConfig:
    given = {"id_name": "email", "id_type": IdType.EMAIL, "is_matching_id": True, "is_activation_id": False}
    return IdentifiersConfig(**{**given, **more})


def test_identifiers_are_declared(client: Client) -> None:
    plain = identifiers(id_name="userId", id_type=IdType.STRING, is_matching_id=False, is_activation_id=True)
    builder = DataLabBuilder(client).with_name("x").with_num_identifiers_columns(2).with_collaboration_types([])
    assert builder.with_identifiers_config([identifiers(), plain]).build().matching_ids == [MatchingId.EMAIL]
    for refused in (
        lambda: builder.with_identifiers_config([identifiers(id_type=IdType.MAID)]),
        lambda: builder.with_identifiers_config([identifiers(is_activation_id=True)]),
        lambda: builder.with_num_identifiers_columns(3),
        builder.with_disable_drop_invalid_rows,
    ):
        with pytest.raises(InvalidRequestError):
            refused()


def plain_lab(client: Client) -> DataLabBuilder:
    return DataLabBuilder(client).with_name("x").with_matching_id_format(MatchingId.EMAIL)


def test_datasets_are_provisioned_one_by_one(server: FakeServer, client: Client) -> None:
    server.answer("create_lab", {"id": "lab1"}, {"id": "lab2"})
    server.answer("delete_lab", {})
    lab = plain_lab(client).with_segments().build()
    lab.provision_dataset("hash-m", Key(), DataLabDatasetType.MATCH)
    with pytest.raises(NotProvisionedError, match="segments"):
        _ = lab.id
    lab.provision_dataset("hash-s", Key(), DataLabDatasetType.SEGMENTS)
    assert lab.id == "lab1"
    assert server.sent[-1].params["datasets"] == {"matching:EMAIL": "hash-m", "segments": "hash-s"}
    lab.deprovision_dataset(DataLabDatasetType.SEGMENTS)
    assert not server.of("delete_lab"), "the earlier data lab stays until another one replaces it"
    lab.provision_dataset("hash-t", Key(), DataLabDatasetType.SEGMENTS)
    assert lab.id == "lab2"
    assert server.of("create_lab")[-1].params["datasets"] == {"matching:EMAIL": "hash-m", "segments": "hash-t"}
    assert [sent.params for sent in server.of("delete_lab")] == [{"lab_id": "lab1"}]
    lab.deprovision_dataset(DataLabDatasetType.MATCH)
    assert server.of("delete_lab")[-1].params == {"lab_id": "lab2"}
    with pytest.raises(NotProvisionedError):
        _ = lab.id


def test_the_first_argument_of_a_lab_is_its_key(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="key"):
        plain_lab(client).build().provision_local_datasets(str(tmp_path / "matching.csv"))


def test_a_validation_is_judged_by_its_report(server: FakeServer, client: Client) -> None:
    report = {"version": "v0", "report": {"outcome": "PASSED"}}
    failed = {"version": "v0", "report": {"outcome": "FAILED"}}
    known = {"id": "lab1", "name": "x", "datasets": {"matching:EMAIL": "h"}, "n_embeddings": 0, "activation": []}
    server.answer("get_lab", {**known, "is_validated": True, "reports": {"matching": report}})
    lab = DataLabBuilder(client).from_existing("lab1").build()
    found = lab.get_validation_report(timeout=1)
    assert found["matching"] == report
    assert lab.is_validation_passed
    assert str(lab.is_validation_passed) == "True"
    assert lab.is_validation_passed()
    assert lab.is_validation_passed(found)
    assert lab.is_validation_passed(dict(found))
    assert not lab.is_validation_passed({"matching": failed})
    assert (lab.matching_ids, lab.has_segments) == ([MatchingId.EMAIL], False)


def test_a_base_is_provisioned_by_force(server: FakeServer, client: Client) -> None:
    server.answer("start_lab", ended("lab_validation", status="Running"))
    server.answer("get_job", ended("lab_validation"))
    server.answer("provision_base", {})
    room = MediaDcr.from_existing("room1", client)
    room.provision_base_audience("lab1")
    assert not server.of("start_lab")
    room.provision_base_audience("lab1", force=True)
    assert [sent.path.rsplit("/")[-1] for sent in server.sent[-3:]] == ["start_lab", "get_job", "provision_base"]


def test_users_are_added_and_removed(server: FakeServer, client: Client) -> None:
    members = {
        "member_permissions": {"q@example.com": ["MANAGE_USERS"]},
        "emails": ["p@example.com", "q@example.com"],
    }
    server.answer("add_user", {**ROOM, "participants": [{**ROOM["participants"][0], **members}]})
    server.answer("remove_user", ROOM)
    room = MediaDcr.from_existing("room1", client)
    [mine] = room.get_participants()
    room.add_user_as_participant(mine, "q@example.com", [Permission.MANAGE_USERS])
    sent = {"room_id": "room1", "participant_id": "1", "email": "q@example.com", "permissions": ["MANAGE_USERS"]}
    assert server.sent[-1].params == sent
    [more] = room.get_participants()
    assert more.member_permissions == {"q@example.com": [Permission.MANAGE_USERS]}
    assert more.as_dict()["member_permissions"] == {"q@example.com": ["MANAGE_USERS"]}
    room.remove_user_from_participant(more, "q@example.com")
    assert room.get_participants() == [mine]
