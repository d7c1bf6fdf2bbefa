"""The client, tested with a fake server.

Contract: every request carries the token, which is never displayed; an error response raises the class of its
type; reads are retried, writes are not sent twice; jobs can be awaited, cancelled and distinguished; files are
downloaded complete and unaltered, or not at all.
"""

import gzip
import hashlib
import io
import json
import logging
import pickle
import socket
import ssl
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cleanroom_pipelines import media
from cleanroom_pipelines.audiences.definitions import parse_definition
from cleanroom_pipelines.errors import ArtifactError, CleanroomError, InputError, UsageError
from cleanroom_pipelines.errors import NotFoundError as CoreNotFoundError
from cleanroom_pipelines.media import (
    AudienceHasDependentsError,
    BudgetSpentError,
    Client,
    CollaborationType,
    DataLab,
    DataLabBuilder,
    DownloadDamagedError,
    InvalidRequestError,
    JobAlreadyStartedError,
    JobFailedError,
    JobStatus,
    JobTimeoutError,
    LookalikeAudienceBuilder,
    MatchingId,
    MediaDcr,
    MediaError,
    NotFoundError,
    NotProvisionedError,
    NotValidatedError,
    Participant,
    PermissionDeniedError,
    SeedAudience,
    ServerError,
    ServerUnavailableError,
    TooFewUsersError,
    TooManyRequestsError,
    UnauthorizedError,
    ValidationFailedError,
)
from cleanroom_pipelines.media import errors as media_errors
from cleanroom_pipelines.media.client import HttpTransport
from cleanroom_pipelines.media.errors import job_failure
from cleanroom_pipelines.media.protocol import (
    JobKind,
    Method,
    as_media_error,
    error_as_dict,
    error_from_dict,
    status_of,
)
from cleanroom_pipelines.server import media as handlers

from ..cases import assert_each
from .fake_server import DROP, Answer, FakeServer, Sent, custom_audience, error_answer, result, serving

TOKEN = "tok-9f8e7d6c5b4a"
ROOM = {
    "id": "room1",
    "name": "Wine",
    "owner_email": "p@example.com",
    "participants": [
        {
            "id": "1",
            "emails": ["p@example.com"],
            "role": "publisher",
            "permissions": ["PROVIDE_BASE_AUDIENCE", "EXPORT_AUDIENCE"],
            "organization_id": None,
        },
        {
            "id": "2",
            "emails": ["a@example.com"],
            "role": "advertiser",
            "permissions": ["PROVIDE_SEED_AUDIENCE"],
            "organization_id": None,
        },
    ],
    "collaboration_types": ["ENABLE_INSIGHTS", "ENABLE_LOOKALIKE_AUDIENCES"],
    "matching_ids": ["EMAIL"],
    "hide_absolute_values": False,
    "activation": [],
    "created_at": "2026-03-01T12:00:00Z",
    "privacy": {"threshold": 40},
    "ledger": {"spent": 3, "total": 100},
}
SEED = SeedAudience("customers")


@pytest.fixture(scope="module")
def running_server() -> Iterator[FakeServer]:
    with serving() as fake:
        yield fake


@pytest.fixture
def server(running_server: FakeServer) -> FakeServer:
    """The shared fake server, cleared for each test."""
    running_server.forget()
    running_server.answer("get_room", ROOM)
    running_server.answer("create_room", ROOM)
    running_server.answer("whoami", {"email": "a@example.com"})
    return running_server


def no_sleep(_: float) -> None:
    pass


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.url, TOKEN, sleep=no_sleep) as made:
        yield made


@pytest.fixture
def room(client: Client) -> MediaDcr:
    return MediaDcr.from_existing("room1", client)


def running(kind: str = "audience_size", **facts: Any) -> dict[str, Any]:
    return {
        "id": "job1",
        "kind": kind,
        "status": "Running",
        "progress": 0.5,
        "stage": "counting",
        "error": None,
    } | facts


def ended(kind: str = "audience_size", **facts: Any) -> dict[str, Any]:
    return running(kind, status="Success", progress=1.0) | facts


# who asks


def test_every_request_carries_the_token(server: FakeServer, client: Client) -> None:
    assert client.email == "a@example.com"
    [sent] = server.sent
    assert (sent.method, sent.path) == ("POST", "/_cleanroom/media/v1/whoami")
    assert sent.headers["authorization"] == f"Bearer {TOKEN}"
    assert sent.params == {}


def test_the_token_is_never_displayed(
    server: FakeServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [repr(client), str(client), repr(client.__dict__)]
    server.answer("list_rooms", Answer(500, b"oops"))
    for fails in (
        client.get_data_rooms,
        lambda: HttpTransport(unused_url(), TOKEN, sleep=no_sleep).call("whoami", {}),
    ):
        with pytest.raises(MediaError) as caught:
            fails()
        shown += ["".join(traceback.format_exception(caught.value)), repr(caught.value.attributes)]
    with pytest.raises(InvalidRequestError) as refused:
        Client(server.url, TOKEN + "\n")
    shown += ["".join(traceback.format_exception(refused.value)), caplog.text]
    assert len(caplog.text) > 0
    assert all(TOKEN not in text for text in shown)


UNUSABLE = [
    {},
    {"url": "https://x.example"},
    {"url": "https://x.example", "token": "t", "home": "/tmp/x"},
    {"home": "somewhere"},
    {"url": "ftp://x.example", "token": "t"},
    {"url": "x.example", "token": "t"},
    {"url": "https://u:p@x.example", "token": "t"},
    {"url": "https://x.example?q=1", "token": "t"},
    {"url": "https://x.example:port", "token": "t"},
    {"url": "https://x.example", "token": "two words"},
    {"url": "https://x.example", "token": ""},
]


def test_an_incomplete_client_is_rejected() -> None:
    def is_not_made(arguments: Any) -> None:
        with pytest.raises(InvalidRequestError):
            Client(**arguments)

    assert_each(is_not_made, UNUSABLE)


def test_an_unencrypted_token_causes_a_warning() -> None:
    with pytest.warns(UserWarning, match="unencrypted"):
        Client("http://cleanroom.example", "t").close()


def test_a_path_prefix_of_the_url_is_kept(server: FakeServer) -> None:
    with Client(f"{server.url}/behind/", TOKEN) as client, pytest.raises(NotFoundError):
        client.get_data_rooms()
    assert server.sent[0].path == "/behind/_cleanroom/media/v1/list_rooms"


def test_rooms_are_listed(server: FakeServer, client: Client) -> None:
    server.answer("list_rooms", {"rooms": [{"id": "room1", "name": "Wine", "created_at": "2026-03-01T12:00:00Z"}]})
    assert [(each.id, each.name) for each in client.get_data_rooms()] == [("room1", "Wine")]


def serve_from_home(monkeypatch: pytest.MonkeyPatch, transport: Any) -> list[tuple[str, str]]:
    opened: list[tuple[str, str]] = []
    server = ModuleType("service")

    def open_local(home: str, user_email: str) -> Any:
        opened.append((home, user_email))
        return transport

    server.open_local = open_local  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cleanroom_pipelines.server.media.service", server)
    monkeypatch.setattr(handlers, "service", server, raising=False)
    return opened


class Local:
    """A transport within this process, in place of a connection."""

    def __init__(self) -> None:
        self.took: list[tuple[Any, str]] = []

    def call(self, method: str, params: dict[str, Any]) -> Any:
        if method == "list_rooms":
            raise CoreNotFoundError("Gone.", remedy="Look elsewhere.")
        return {"email": "p@example.com", "method": method, "params": params}

    def upload(self, source: Any, name: str) -> dict[str, Any]:
        self.took.append((source, name))
        return {"manifest_hash": "abc", "name": name, "n_bytes": 1}

    def download(self, job_id: str, name: str) -> Iterator[bytes]:
        yield b"u1"
        raise CoreNotFoundError("Gone.")

    def close(self) -> None:
        self.took.append(("closed", ""))


def test_a_local_home_answers_the_same_calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    local = Local()
    opened = serve_from_home(monkeypatch, local)
    file = tmp_path / "seed.csv"
    file.write_text("a")
    with Client(home=tmp_path, user_email="p@example.com") as client:
        assert opened == [(str(tmp_path), "p@example.com")]
        assert client.email == "p@example.com"
        assert client.upload_dataset(file) == "abc"
        with pytest.raises(NotFoundError, match="Look elsewhere"):
            client.get_data_rooms()
        chunks = client.download("job1", "part-00000.csv")
        assert next(chunks) == b"u1"
        with pytest.raises(NotFoundError):
            next(chunks)
    assert local.took == [(file, "seed.csv"), ("closed", "")]


def test_certificates_are_verified_by_default(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(context) as server:
        server.answer("whoami", {"email": "p@example.com"})
        with Client(server.url, TOKEN) as client, pytest.raises(ServerUnavailableError, match="not trusted"):
            _ = client.email
        assert server.sent == [], "the token was not given away"
        with Client(server.url, TOKEN, verify=certificate) as client:
            assert client.email == "p@example.com"


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    no_password = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
    file = folder / "server.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return file


# errors


def test_an_error_keeps_its_class_over_the_wire() -> None:
    def round_trips(kind: type[MediaError]) -> None:
        error = kind("What happened.", remedy="What to do.", n_found=3)
        told = error_from_dict(error_as_dict(error), status=status_of(error))
        assert type(told) is kind
        assert (told.message, told.remedy, told.attributes) == ("What happened.", "What to do.", {"n_found": 3})
        assert isinstance(told, CleanroomError)
        assert 400 <= status_of(error) < 600
        assert type(pickle.loads(pickle.dumps(told))) is kind

    assert_each(
        round_trips,
        [kind for kind in vars(media_errors).values() if isinstance(kind, type) and issubclass(kind, MediaError)],
    )


def test_an_error_also_inherits_a_built_in_one() -> None:
    def is_also(kind: type[MediaError], built_in: type[Exception]) -> None:
        assert issubclass(kind, built_in)

    assert_each(
        is_also,
        [
            (PermissionDeniedError, PermissionError),
            (UnauthorizedError, PermissionError),
            (NotFoundError, LookupError),
            (media.InvalidDefinitionError, ValueError),
            (JobTimeoutError, TimeoutError),
            (ServerUnavailableError, ConnectionError),
            (JobFailedError, RuntimeError),
            (BudgetSpentError, RuntimeError),
            (TooFewUsersError, ValueError),
        ],
    )


def test_an_error_response_raises_the_class_of_its_type(server: FakeServer, client: Client) -> None:
    def becomes(status: int, type_: str, kind: type[MediaError]) -> None:
        server.answer("list_rooms", error_answer(status, type_, "Not this.", limit=4))
        with pytest.raises(MediaError, match=r"Not this\. Do right\.") as caught:
            client.get_data_rooms()
        assert type(caught.value) is kind
        assert caught.value.attributes == {"limit": 4}

    assert_each(
        becomes,
        [
            (403, "PermissionDeniedError", PermissionDeniedError),
            (401, "UnauthorizedError", UnauthorizedError),
            (403, "BudgetSpentError", BudgetSpentError),
            (400, "SomethingNewError", MediaError),
        ],
    )


def test_any_unexpected_response_raises_a_media_error(server: FakeServer, client: Client) -> None:
    def is_ours(answer: Answer, kind: type[MediaError]) -> None:
        server.sent.clear()
        server.answer("list_rooms", answer)
        with pytest.raises(kind):
            client.get_data_rooms()
        assert len(server.sent) == 1

    assert_each(
        is_ours,
        [
            (Answer(500, b"<html>"), ServerError),
            (Answer(404, b"nothing here"), NotFoundError),
            (Answer(401, b""), UnauthorizedError),
            (Answer(400, b'{"error": "odd"}'), MediaError),
            (
                Answer(400, b'{"error": {"type": 4, "message": "m", "attributes": {"message": 1, "self": 2}}}'),
                MediaError,
            ),
            (Answer(200, b"<html>"), ServerError),
            (Answer(200, b"[]"), ServerError),
            (Answer(302, b"", {"Location": "https://elsewhere.example"}), InvalidRequestError),
        ],
    )


def test_core_errors_become_media_errors() -> None:
    def becomes(error: Exception, kind: type[MediaError]) -> None:
        ours = as_media_error(error)
        assert type(ours) is kind
        assert "example" not in str(ours)

    assert_each(
        becomes,
        [
            (CoreNotFoundError("Gone."), NotFoundError),
            (UsageError("Wrong."), InvalidRequestError),
            (InputError("Bad file."), ValidationFailedError),
            (ArtifactError("Broken."), ServerError),
            (ValueError("a@example.com"), ServerError),
        ],
    )


def test_errors_of_the_definition_language_become_definition_errors() -> None:
    with pytest.raises(UsageError) as wrong:
        parse_definition({"kind": "lookalike", "source": {"kind": "seed", "audience_type": ""}, "reach": 5})
    ours = as_media_error(wrong.value)
    assert type(ours) is media.InvalidDefinitionError
    assert ours.attributes == {"place": "definition.source"}
    circle = UsageError("In a circle.", problem="cycle")
    assert type(as_media_error(circle)) is media.InvalidDefinitionError


def test_attributes_that_json_cannot_hold_are_dropped() -> None:
    assert error_as_dict(MediaError("No.", place=Path("x"), limit=3))["attributes"] == {"limit": 3}


# again, or not


def unused_url() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


def test_reads_are_retried(server: FakeServer, client: Client) -> None:
    def is_asked_again(lost: Any) -> None:
        server.sent.clear()
        server.answer("list_rooms", lost, lost, {"rooms": []})
        assert client.get_data_rooms() == []
        assert len(server.sent) == 3

    assert_each(is_asked_again, [DROP, Answer(503, b""), Answer(502, b"")])


def test_writes_are_not_sent_twice(server: FakeServer, room: MediaDcr) -> None:
    def is_not_sent_twice(lost: Any) -> None:
        server.sent.clear()
        server.answer("create_audience", lost)
        with pytest.raises(ServerUnavailableError):
            room.create_lookalike_audience(
                LookalikeAudienceBuilder(name="x", reach=1, source_audience=SEED).build()
            )
        assert len(server.of("create_audience")) == 1

    assert_each(is_not_sent_twice, [DROP, Answer(503, b"")])


def test_retries_are_limited_with_growing_pauses() -> None:
    pauses: list[float] = []
    transport = HttpTransport(unused_url(), TOKEN, sleep=pauses.append)
    with pytest.raises(ServerUnavailableError, match="cannot be reached") as caught:
        transport.call("create_room", {})
    assert type(caught.value) is ServerUnavailableError
    assert len(pauses) == 4
    assert pauses == sorted(pauses)


def test_the_retry_after_header_is_respected(server: FakeServer) -> None:
    pauses: list[float] = []
    slow_down = Answer(429, b"", {"Retry-After": "7"})
    server.answer("create_room", slow_down, ROOM)
    transport = HttpTransport(server.url, TOKEN, sleep=pauses.append)
    assert transport.call("create_room", {})["id"] == "room1"
    assert pauses == [7.0]
    server.answer("create_room", slow_down)
    with pytest.raises(TooManyRequestsError):
        transport.call("create_room", {})


def test_every_read_method_is_marked_as_read_only() -> None:
    reading = {method.value for method in Method if method.only_reads}
    looks = {"whoami", "get_room", "get_members", "list_rooms", "get_lab", "get_provisioning", "get_audit_log"}
    looks |= {"list_audiences", "get_audience", "get_draft"}
    assert reading == looks | {"get_job", "get_job_result", "get_estimate", "list_proposals"}


# uploads


@pytest.fixture
def uploads(server: FakeServer) -> FakeServer:
    def take(sent: Sent) -> Answer:
        digest = hashlib.sha256(sent.body).hexdigest()
        return result({"manifest_hash": digest, "name": sent.query["name"][0], "n_bytes": len(sent.body)})

    server.work_out("uploads", take)
    return server


def test_a_file_is_uploaded_unchanged(uploads: FakeServer, client: Client, tmp_path: Path) -> None:
    content = b"u1,a@example.com\n" * 100_000
    file = tmp_path / "seed list.csv"
    file.write_bytes(content)
    manifest_hash = client.upload_dataset(file, matching_id=MatchingId.EMAIL)
    assert manifest_hash == hashlib.sha256(content).hexdigest()
    assert manifest_hash.matching_id is MatchingId.EMAIL
    [sent] = uploads.sent
    assert (sent.method, sent.query, sent.body) == ("PUT", {"name": ["seed list.csv"]}, content)
    assert sent.headers["content-length"] == str(len(content))
    assert client.upload_dataset(str(file), name="Ours") == manifest_hash
    assert uploads.sent[-1].query == {"name": ["Ours"]}


def test_streams_and_tables_are_uploaded(uploads: FakeServer, client: Client) -> None:
    import pandas as pd
    import pyarrow as pa

    expected = b'a,"x,y"\nb,z\n'
    frame = pd.DataFrame({"id": ["a", "b"], "type": ["x,y", "z"]})
    for data in (io.BytesIO(expected), io.StringIO(expected.decode()), frame):
        client.upload_dataset(data)
        assert uploads.sent[-1].body == expected
    client.upload_dataset(pa.table({"id": ["a"]}))
    assert uploads.sent[-1].body == b'"a"\n'


def test_data_that_is_neither_file_nor_table_is_rejected(uploads: FakeServer, client: Client) -> None:
    def is_not_sent(data: Any) -> None:
        with pytest.raises(InvalidRequestError):
            client.upload_dataset(data)
        assert uploads.sent == []

    assert_each(is_not_sent, ["no such file.csv", 5, None, object()])


def test_an_upload_is_repeated_from_its_start(server: FakeServer, client: Client) -> None:
    server.answer("uploads", Answer(503, b""), {"manifest_hash": "abc", "name": "n", "n_bytes": 4})
    assert client.upload_dataset(io.BytesIO(b"a,b\n")) == "abc"
    assert [sent.body for sent in server.sent] == [b"a,b\n", b"a,b\n"]


# rooms


def test_a_room_is_created_as_described(server: FakeServer, client: Client) -> None:
    publisher = Participant(["p@example.com"], [media.Permission.EXPORT_AUDIENCE], "publisher")
    room = MediaDcr(
        client,
        name="Wine",
        participants=[publisher],
        collaboration_types=[CollaborationType.LOOKALIKE],
        matching_ids=[MatchingId.EMAIL, MatchingId.PHONE_NUMBER],
        hide_absolute_values=True,
        activation=["google"],
    )
    assert room.id == "room1"
    assert server.sent[0].params == {
        "name": "Wine",
        "participants": [
            {"emails": ["p@example.com"], "role": "publisher", "permissions": ["EXPORT_AUDIENCE"]},
        ],
        "collaboration_types": ["ENABLE_LOOKALIKE_AUDIENCES"],
        "matching_ids": ["EMAIL", "PHONE_NUMBER"],
        "hide_absolute_values": True,
        "activation": ["google"],
    }
    with pytest.raises(InvalidRequestError):
        MediaDcr(client, name="Wine")
    assert len(server.sent) == 1


def test_a_room_returns_its_configuration(server: FakeServer, room: MediaDcr) -> None:
    configuration = room.get_configuration()
    assert configuration.collaboration_types == (CollaborationType.INSIGHTS, CollaborationType.LOOKALIKE)
    assert configuration.matching_ids == (MatchingId.EMAIL,)
    assert room.get_owner_email() == "p@example.com"
    assert [each.id for each in room.get_participants()] == ["1", "2"]
    assert all(each.as_dict() for each in room.get_participants()), "a loaded participant can be written"
    assert room.can_other_participants_export_audience()
    budget = room.get_privacy_budget()
    assert (budget.spent, budget.total, budget.remaining) == (3, 100, 97)
    server.answer("get_audit_log", {"entries": [{"action": "get_insights"}]})
    assert room.get_audit_log()[0]["action"] == "get_insights"


def test_the_callers_own_permission_is_not_counted_for_others(server: FakeServer, client: Client) -> None:
    server.answer("whoami", {"email": "P@example.com"})
    assert not MediaDcr.from_existing("room1", client).can_other_participants_export_audience()


def test_both_sides_are_provisioned(uploads: FakeServer, room: MediaDcr, client: Client) -> None:
    for method in ("provision_base", "provision_seeds", "deprovision_base", "deprovision_seeds"):
        uploads.answer(method, {})
    uploads.answer("get_provisioning", {"base": True, "seeds": False})
    room.provision_base_audience("lab1")
    assert uploads.sent[-1].params == {"room_id": "room1", "lab_id": "lab1"}
    room.provision_seed_audiences("abc")
    assert uploads.sent[-1].params["datasets"] == [{"manifest_hash": "abc", "matching_id": None}]
    emails = client.upload_dataset(io.BytesIO(b"a"), matching_id=MatchingId.EMAIL)
    phones = client.upload_dataset(io.BytesIO(b"b"), matching_id=MatchingId.PHONE_NUMBER)
    room.provision_seed_audiences([emails, phones])
    assert [each["matching_id"] for each in uploads.sent[-1].params["datasets"]] == ["EMAIL", "PHONE_NUMBER"]
    assert room.is_base_audience_provisioned()
    assert not room.are_seed_audiences_provisioned()
    room.deprovision_base_audience()
    room.deprovision_seed_audiences()
    assert [sent.path.rsplit("/", 1)[1] for sent in uploads.sent[-2:]] == ["deprovision_base", "deprovision_seeds"]


def audience_answer(sent: Sent) -> Answer:
    kept = {name: sent.params[name] for name in ("name", "definition", "shared_with")}
    return result(
        {"id": "aud1", "kind": "x", "created_at": "t", "created_by": "me", "staleness_warnings": [], **kept}
    )


def test_audiences_are_created_shared_and_deleted(server: FakeServer, room: MediaDcr, client: Client) -> None:
    server.work_out("create_audience", audience_answer)
    server.answer("share_audiences", {})
    server.answer("delete_audiences", {"deleted": ["aud1"]})
    built = Participant(["P@example.com"], [], "as it was built, without an id")
    definition = (
        LookalikeAudienceBuilder(name="Like", reach=5, source_audience=SEED)
        .with_share_with_participants([built])
        .build()
    )
    audience = room.create_lookalike_audience(definition)
    assert server.sent[-1].params == {
        "room_id": "room1",
        "name": "Like",
        "definition": definition.as_dict(),
        "shared_with": ["1"],
    }
    assert (audience.id, audience.name, audience.reach) == ("aud1", "Like", 5)
    assert (audience.kind, audience.definition["kind"]) == (media.AudienceKind.CUSTOM, "lookalike")
    told: Any = media.CreateLookalikeAudienceAction("room1", client, definition).create()
    assert told["id"] == "aud1"
    room.share_audiences([audience], room.get_participants())
    assert server.sent[-1].params["participant_ids"] == ["1", "2"]
    room.delete_audiences([audience], delete_dependent_audiences=True)
    assert server.sent[-1].params == {
        "room_id": "room1",
        "audience_ids": ["aud1"],
        "delete_dependent_audiences": True,
    }


def test_each_kind_of_audience_has_its_own_call(server: FakeServer, room: MediaDcr) -> None:
    server.work_out("create_audience", audience_answer)
    rule = media.RuleBasedAudienceBuilder(name="r", source_audience=media.BaseAudience()).build()
    remarketing = media.RemarketingAudienceBuilder(name="m", source_audience_type="t").build()
    exclusion = media.ExclusionTargetingAudienceBuilder(name="e", source_audience_type="t").build()
    assert room.create_rule_based_audience(rule).definition["kind"] == "rule_based"
    assert room.create_remarketing_audience(remarketing).definition["kind"] == "remarketing"
    assert room.create_exclusion_audience(exclusion).definition["kind"] == "exclusion"
    with pytest.raises(media.InvalidDefinitionError):
        room.create_rule_based_audience(remarketing)  # type: ignore[arg-type]


def test_an_id_takes_precedence_over_addresses(server: FakeServer, room: MediaDcr) -> None:
    server.answer("share_audiences", {})
    room.share_audiences([], [Participant(["p@example.com"], [], "whose addresses were changed", id="2")])
    assert server.sent[-1].params["participant_ids"] == ["2"]


def test_sharing_with_a_non_participant_is_rejected(room: MediaDcr) -> None:
    with pytest.raises(NotFoundError):
        room.share_audiences([], [Participant(["x@example.com"], [], "stranger")])


def test_dependents_are_named(server: FakeServer, room: MediaDcr) -> None:
    server.answer(
        "delete_audiences", error_answer(409, "AudienceHasDependentsError", names=["On top"], n_others=2)
    )
    with pytest.raises(AudienceHasDependentsError) as caught:
        room.delete_audiences([custom_audience("aud1", "Like")])
    assert caught.value.names == ("On top",)
    assert caught.value.attributes["n_others"] == 2


PROPOSAL = {
    "id": "p1",
    "kind": "refill",
    "units": 50,
    "approved_by": ["advertiser.example"],
    "is_effective": False,
    "bound": {"right_at_most": 0.6},
    "bound_then": {"right_at_most": 0.623},
}


def test_more_units_are_proposed_and_approved(server: FakeServer, room: MediaDcr) -> None:
    server.answer("propose", PROPOSAL)
    proposal = room.propose_refill(50)
    assert server.sent[-1].params == {"room_id": "room1", "kind": "refill", "units": 50}
    assert (proposal.approved_by, proposal.is_effective) == (("advertiser.example",), False)
    assert (proposal.bound["right_at_most"], proposal.bound_then["right_at_most"]) == (0.6, 0.623)
    n_sent = len(server.sent)
    for units in (0, -1, True, 2.5, "3"):
        with pytest.raises(InvalidRequestError):
            room.propose_refill(units)  # type: ignore[arg-type]
    assert len(server.sent) == n_sent
    server.answer("list_proposals", {"proposals": [PROPOSAL]})
    (found,) = room.get_proposals()
    server.answer("approve", PROPOSAL | {"is_effective": True})
    assert room.approve(found).is_effective
    assert server.sent[-1].params == {"room_id": "room1", "proposal_id": "p1"}


@pytest.mark.parametrize(
    ("method", "kind"), [("propose_monthly_budget", "period"), ("propose_full_lookalike", "full_lookalike")]
)
def test_other_proposals(server: FakeServer, room: MediaDcr, method: str, kind: str) -> None:
    server.answer("propose", PROPOSAL | {"kind": kind, "units": 0})
    assert getattr(room, method)().kind == kind
    assert server.sent[-1].params == {"room_id": "room1", "kind": kind}


def test_a_share_is_proposed_and_limits_what_remains(server: FakeServer, room: MediaDcr) -> None:
    server.answer("propose", PROPOSAL | {"kind": "share", "units": 20, "organization": "agency.example"})
    proposal = room.propose_share("agency.example", 20)
    assert (proposal.kind, proposal.units, proposal.organization) == ("share", 20, "agency.example")
    assert server.sent[-1].params == {
        "room_id": "room1",
        "kind": "share",
        "organization": "agency.example",
        "units": 20,
    }
    for units in (-1, True, 2.5, "3"):
        with pytest.raises(InvalidRequestError):
            room.propose_share("agency.example", units)  # type: ignore[arg-type]
    server.answer("get_room", {"ledger": {"spent": 30, "total": 100, "share": 20, "left": 5}})
    budget = room.get_privacy_budget()
    assert (budget.share, budget.remaining) == (20, 5)


def test_base_figures_are_renewed(server: FakeServer, room: MediaDcr) -> None:
    server.answer("renew_base_figures", {"privacy": {}})
    room.renew_base_figures()
    assert server.sent[-1].params == {"room_id": "room1"}


def test_a_price_is_estimated(server: FakeServer, room: MediaDcr) -> None:
    server.answer("get_estimate", {"units": 62, "is_at_most": True, "left": 90, "is_affordable": True})
    like = media.LookalikeAudienceBuilder(name="l", reach=5, source_audience=SEED).build()
    price = room.estimate("audience_size", definition=like.as_dict())
    assert (price.units, price.is_at_most, price.left, price.is_affordable) == (62, True, 90, True)
    sent = server.sent[-1].params
    assert sent == {"room_id": "room1", "kind": "audience_size", "definition": like.as_dict()}
    room.estimate("insights", audience_type="customers")
    assert server.sent[-1].params == {"room_id": "room1", "kind": "insights", "audience_type": "customers"}
    room.estimate("user_list", audience=custom_audience("aud1", "Like"))
    assert server.sent[-1].params["audience"] == {"kind": "custom", "id": "aud1"}
    assert server.of("start_job") == []


def test_a_budget_shows_the_remaining_units_and_the_bound(server: FakeServer, room: MediaDcr) -> None:
    ledger = {"spent": 12.5, "total": 100, "left": 87.5, "pair": ["a", "b"], "period": "month"}
    server.answer("get_room", ROOM | {"ledger": ledger | {"bound": {"right_at_most": 0.6}}})
    budget = room.get_privacy_budget()
    assert (budget.spent, budget.total, budget.remaining) == (12.5, 100, 87.5)
    assert (budget.pair, budget.period, budget.bound) == (("a", "b"), "month", {"right_at_most": 0.6})


# jobs


def test_a_job_starts_once_when_it_is_created(server: FakeServer, room: MediaDcr) -> None:
    server.answer("start_job", running())
    job = room.get_audience_size(SEED)
    assert server.sent[-1].params == {
        "room_id": "room1",
        "kind": "audience_size",
        "audience": {"kind": "seed", "audience_type": "customers"},
        "definition": None,
        "options": {},
    }
    with pytest.raises(JobAlreadyStartedError):
        job.run()
    assert len(server.of("start_job")) == 1


def test_waiting_for_a_job(server: FakeServer, room: MediaDcr) -> None:
    server.answer("start_job", running(progress=0.0))
    server.answer("get_job", running(), running(), running(), running(), ended())
    server.answer("get_job_result", {"size": 120, "noise": {"within": 23}, "reason": None})
    job = room.get_audience_size(SEED)
    assert not job.is_complete()
    assert job.progress == 0.5
    assert job.stage == "counting"
    assert job.wait_for_completion(timeout=10, sleep_interval=0.001) is job
    assert job.is_complete()
    assert job.result() == {"userId": 120}
    assert job.details().noise == {"within": 23}
    assert job.result() == {"userId": 120}
    assert len(server.of("get_job_result")) == 1
    assert job.status is JobStatus.SUCCESS


def test_a_room_is_declined(server: FakeServer, room: MediaDcr) -> None:
    server.answer("decline_room", {})
    room.decline()
    (sent,) = server.of("decline_room")
    assert sent.body == b'{"room_id":"room1"}'


def test_the_position_in_the_queue_is_shown_while_waiting(
    server: FakeServer, room: MediaDcr, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = running(stage="waiting", progress=0.0, place=3)
    server.answer("start_job", waiting)
    server.answer("get_job", waiting)
    job = room.get_audience_size(SEED)
    assert (job.stage, job.place) == ("waiting", 3)
    with pytest.raises(JobTimeoutError, match="still running, waiting, place 3 in the queue"):
        job.wait_for_completion(timeout=0, sleep_interval=0.001)
    assert "waiting, place 3 in the queue" in repr(job)
    server.answer("get_job", waiting, waiting, running(), ended())
    server.answer("get_job_result", {"size": 120})
    with caplog.at_level("INFO", logger="cleanroom_pipelines.media"):
        assert job.result() == {"userId": 120}
    assert [record.getMessage() for record in caplog.records] == [
        "The job is still running, waiting, place 3 in the queue.",
        "The job is still running, counting.",
    ]
    assert "place" not in repr(job)


def test_a_result_waits_for_its_job(server: FakeServer, room: MediaDcr) -> None:
    server.answer("start_job", running())
    server.answer("get_job", running(), ended())
    server.answer("get_job_result", {"size": 120})
    assert room.get_audience_size(SEED).result() == {"userId": 120}


def test_a_withheld_size_is_none(server: FakeServer, room: MediaDcr) -> None:
    def size_is_none(reason: str) -> None:
        server.answer("start_job", ended())
        server.answer("get_job_result", {"size": None, "noise": {}, "reason": reason})
        job = room.get_audience_size(SEED)
        assert job.result() == {"userId": None}
        assert job.details().reason == reason

    assert_each(size_is_none, ["hidden", "too_few"])


def test_a_draft_is_sized_without_being_saved(server: FakeServer, room: MediaDcr) -> None:
    server.answer("start_job", ended())
    draft = media.RuleBasedAudienceBuilder(name="draft", source_audience=SEED).build()
    room.get_audience_size(draft)
    assert server.sent[-1].params["audience"] is None
    assert server.sent[-1].params["definition"] == draft.as_dict()


def test_a_job_keeps_running_after_a_timeout(server: FakeServer, room: MediaDcr) -> None:
    server.answer("start_job", running())
    server.answer("get_job", running())
    with pytest.raises(JobTimeoutError) as caught:
        room.get_insights().wait_for_completion(timeout=0.05, sleep_interval=0.01)
    assert isinstance(caught.value, TimeoutError)
    assert server.of("cancel_job") == []


def test_a_failed_job_raises_its_cause(server: FakeServer, room: MediaDcr) -> None:
    error = {
        "type": "TooFewUsersError",
        "message": "Too few.",
        "remedy": "Bring more.",
        "attributes": {"least": 40},
    }
    server.answer("start_job", running("lookalike_statistics"))
    server.answer("get_job", running("lookalike_statistics", status="Failed", error=error))
    job = room.get_lookalike_audience_statistics(custom_audience("aud1", "Like"))
    for kind in (JobFailedError, TooFewUsersError, MediaError, ValueError):
        with pytest.raises(kind, match=r"Too few\. Bring more\.") as caught:
            job.wait_for_completion(sleep_interval=0)
        assert caught.value.attributes == {"least": 40}  # type: ignore[attr-defined]
    with pytest.raises(JobFailedError):
        job.result()
    assert job.is_complete()


def test_a_failure_without_a_type_is_a_job_failed_error(server: FakeServer, room: MediaDcr) -> None:
    server.answer("start_job", running(status="Failed", error="It broke."))
    with pytest.raises(JobFailedError, match="It broke"):
        room.get_insights().result()


def test_a_job_failure_can_be_pickled() -> None:
    failure = job_failure(TooFewUsersError("Too few.", remedy="Bring more.", least=40))
    again = pickle.loads(pickle.dumps(failure))
    assert type(again) is type(failure)
    assert vars(again) == vars(failure)
    assert error_as_dict(failure)["type"] == "TooFewUsersError"


def test_a_job_is_cancelled(server: FakeServer, room: MediaDcr) -> None:
    error = {"type": "JobCancelledError", "message": "Cancelled.", "remedy": "", "attributes": {}}
    server.answer("start_job", running())
    server.answer("cancel_job", running(status="Failed", error=error))
    job = room.get_insights()
    job.cancel()
    with pytest.raises(media.JobCancelledError):
        job.wait_for_completion()
    job.cancel()
    assert len(server.of("cancel_job")) == 1


def test_a_job_is_found_again_by_its_id(server: FakeServer, room: MediaDcr) -> None:
    for kind in JobKind:
        server.answer("get_job", ended(kind.value))
        assert room.get_job("job1").kind is kind


RESULTS: dict[str, tuple[str, Any]] = {
    "overlap_statistics": (
        "get_overlap_statistics",
        {
            "rows": [
                {"audience_type": "customers", "advertiser_size": None, "overlap_size": 120, "is_empty": False,
                 "match_rate": 0.4}
            ],
            "noise": {"within": 23},
        },
    ),
    "insights": (
        "get_insights",
        {
            "audiences": [
                {"audience_type": "customers", "rows": [
                    {"interest": "Wine", "age": None, "gender": "f", "affinity_ratio": 1.4,
                     "share_in_overlap": 0.2, "share_in_matchable": 0.14, "addressable_size": None}
                ]}
            ],
            "noise": {},
        },
    ),
    "data_attributes": (
        "get_data_attributes",
        {"attributes": [{"name": "age", "type": "NUMERIC_RANGE", "values": ["20-29"], "operators": ["EMPTY"]}]},
    ),
}  # fmt: skip


def test_results_have_the_contracts_format(server: FakeServer, room: MediaDcr) -> None:
    def has_the_shape(kind: str) -> None:
        call, told = RESULTS[kind]
        server.answer("start_job", ended(kind))
        server.answer("get_job_result", told)
        answer = getattr(room, call)().result()
        assert server.of("start_job")[-1].params["kind"] == kind
        assert answer == type(answer).from_dict(told)
        assert json.loads(answer.model_dump_json(indent=1)) == answer.as_dict()
        assert (answer.of("customers") or answer.of("age")) is not None
        assert answer.of("nothing of that name") is None

    assert_each(has_the_shape, RESULTS)


def test_audiences_and_reports_are_results_too(server: FakeServer, room: MediaDcr) -> None:
    server.answer("start_job", ended())
    custom = {"id": "a", "name": "Like", "kind": "lookalike", "definition": {"kind": "lookalike"}}
    seed = {
        "kind": "seed",
        "audience_type": "customers",
        "size": None,
        "created_at": "2026-01-01T00:00:00Z",
        "is_empty": None,
    }
    server.answer("get_job_result", {"audiences": [seed, custom]})
    audiences = room.get_audiences().result()
    assert audiences.get_seed_audience("customers").size is None
    assert audiences.is_lookalike_audience(audiences.get_custom_audience("Like"))
    body = {"version": "v0", "report": {"outcome": "PASSED"}}
    server.answer("get_job_result", body)
    assert room.get_seed_audiences_validation_report().result().passed
    server.answer("get_job_result", {"matching": body})
    reports = room.get_base_audience_validation_reports().result()
    assert reports.passed
    assert reports.segments is None


# user lists


def deliver(server: FakeServer, files: dict[str, bytes], **facts: Any) -> None:
    server.answer("start_job", ended("user_list"))
    told = [
        {"name": name, "n_users": 1, "n_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        for name, body in files.items()
    ]
    server.answer("get_job_result", {"files": told, "manifest": {"delivered": 2}, "reveals": []} | facts)
    for name, body in files.items():
        server.answer(f"jobs/job1/files/{name}", Answer(body=body))


def test_a_user_list_is_a_list_of_ids(server: FakeServer, room: MediaDcr) -> None:
    second = 'u2\n"u,3"\n"u""4"\n"u\n5"\nü6\n'.encode()
    deliver(
        server, {"part-00000.csv": b"u1\n", "part-00001.csv.gz": gzip.compress(second)}, reveals=["REMARKETING"]
    )
    job = room.get_audience_user_list(SEED)
    assert job.result() == ["u1", "u2", "u,3", 'u"4', "u\n5", "ü6"]
    assert job.delivery().reveals == ("REMARKETING",)
    assert server.sent[-1].headers["authorization"] == f"Bearer {TOKEN}"


def test_options_of_a_user_list_are_sent(server: FakeServer, room: MediaDcr) -> None:
    deliver(server, {})
    room.get_audience_user_list(SEED, destination="google", gzip=True, max_rows=10, holdout="10%", delta_from="j0")
    assert server.of("start_job")[-1].params["options"] == {
        "destination": "google",
        "gzip": True,
        "max_rows": 10,
        "holdout": "10%",
        "delta_from": "j0",
    }
    room.get_audience_user_list(SEED)
    assert server.of("start_job")[-1].params["options"] == {}


def test_files_are_downloaded_whole(server: FakeServer, room: MediaDcr, tmp_path: Path) -> None:
    files = {"part-00000.csv": b"u1\n" * 1_000_000, "added-00000.csv": b"u1\n"}
    deliver(server, files)
    paths = room.get_audience_user_list(SEED).download(tmp_path / "out")
    assert {path.name: path.read_bytes() for path in paths} == files
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(files)


def test_a_broken_download_is_restarted(server: FakeServer, room: MediaDcr, tmp_path: Path) -> None:
    body = b"u1\n" * 1000
    deliver(server, {"part-00000.csv": body})
    longer = Answer(body=body + b"u2\n")
    server.answer("jobs/job1/files/part-00000.csv", Answer(body=body, cut_at=1000), longer, Answer(body=body))
    [path] = room.get_audience_user_list(SEED).download(tmp_path)
    assert path.read_bytes() == body


def test_an_altered_file_is_discarded(server: FakeServer, room: MediaDcr, tmp_path: Path) -> None:
    def is_not_kept(body: bytes) -> None:
        deliver(server, {"part-00000.csv": b"u1\n"})
        server.answer("jobs/job1/files/part-00000.csv", Answer(body=body))
        job = room.get_audience_user_list(SEED)
        with pytest.raises(DownloadDamagedError):
            job.download(tmp_path)
        with pytest.raises(DownloadDamagedError):
            job.result()
        assert list(tmp_path.iterdir()) == []

    assert_each(is_not_kept, [b"u2\n", b"u1\nu2\n", b""])


def test_a_file_cannot_be_written_elsewhere(server: FakeServer, room: MediaDcr, tmp_path: Path) -> None:
    def is_not_written(name: str) -> None:
        deliver(server, {name: b"u1\n"})
        into = tmp_path / "a" / "b"
        with pytest.raises(DownloadDamagedError):
            room.get_audience_user_list(SEED).download(into)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    assert_each(is_not_written, ["../escaped.csv", "/etc/x", "..", "a\\b.csv", ""])


def test_files_for_a_destination_are_not_a_list_of_ids(server: FakeServer, room: MediaDcr) -> None:
    deliver(server, {"part-00000.parquet": b"PAR1"})
    with pytest.raises(InvalidRequestError, match="download"):
        room.get_audience_user_list(SEED).result()


def test_a_rejected_download_raises_its_error(server: FakeServer, room: MediaDcr, tmp_path: Path) -> None:
    deliver(server, {"part-00000.csv": b"u1\n"})
    server.answer("jobs/job1/files/part-00000.csv", error_answer(403, "PermissionDeniedError"))
    with pytest.raises(PermissionDeniedError):
        room.get_audience_user_list(SEED).download(tmp_path)
    assert list(tmp_path.iterdir()) == []


# data labs


def built_lab(client: Client) -> DataLab:
    return (
        DataLabBuilder(client)
        .with_name("Groceries")
        .with_matching_id_format(MatchingId.EMAIL)
        .with_segments()
        .with_demographics()
        .with_embeddings(3)
        .with_activation(["google"])
        .build()
    )


def test_a_lab_is_provisioned_and_validated(uploads: FakeServer, client: Client, tmp_path: Path) -> None:
    files = {}
    for dataset in ("matching", "segments", "demographics", "embeddings"):
        files[f"{dataset}_data_path"] = tmp_path / f"{dataset}.csv"
        files[f"{dataset}_data_path"].write_text(f"{dataset}\n")
    lab = built_lab(client)
    with pytest.raises(NotProvisionedError):
        _ = lab.id
    assert not lab.is_validation_passed
    uploads.answer("create_lab", {"id": "lab1", "name": "Groceries"})
    lab.provision_local_datasets(**files)
    assert lab.id == "lab1"
    params = uploads.sent[-1].params
    assert params["datasets"] == {
        ("matching:EMAIL" if dataset == "matching" else dataset): hashlib.sha256(
            f"{dataset}\n".encode()
        ).hexdigest()
        for dataset in ("matching", "segments", "demographics", "embeddings")
    }
    described = {name: params[name] for name in params if name != "datasets"}
    assert described == {
        "name": "Groceries",
        "matching_ids": ["EMAIL"],
        "has_demographics": True,
        "has_segments": True,
        "n_embeddings": 3,
        "activation": ["google"],
    }
    uploads.answer("start_lab", running("lab_validation"))
    uploads.answer("get_job", running("lab_validation"), ended("lab_validation"))
    report = {"version": "v0", "report": {"outcome": "PASSED"}}
    known = {"id": "lab1", "name": "Groceries", "is_validated": True, "reports": {"matching": report}}
    uploads.answer("get_lab", known | {"statistics": {"n_users": 7}})
    assert lab.run(sleep_interval=0.001) is lab
    assert lab.is_validation_passed
    assert lab.get_validation_report().passed
    assert lab.get_statistics_report() == {"n_users": 7}
    uploads.answer("get_lab", known)
    with pytest.raises(NotValidatedError):
        lab.get_statistics_report()
    uploads.answer("get_lab", {**known, "reports": None}, known)
    assert lab.get_validation_report()["matching"]["report"]["outcome"] == "PASSED"
    assert DataLab.from_existing("lab1", client).is_validation_passed


def test_a_failed_lab_has_reports(server: FakeServer, client: Client) -> None:
    report = {"version": "v0", "report": {"outcome": "FAILED"}}
    known = {"id": "lab1", "name": "Groceries", "is_validated": False, "reports": {"matching": report}}
    server.answer("get_lab", known)
    server.answer("start_lab", running("lab_validation", status="Failed", error="It did not pass."))
    lab = DataLab.from_existing("lab1", client).run()
    assert not lab.is_validation_passed
    assert not lab.get_validation_report().passed
    server.answer("get_lab", known | {"reports": None})
    with pytest.raises(JobFailedError, match="did not pass"):
        lab.run()


def test_several_kinds_of_matching_ids_need_a_file_each(
    uploads: FakeServer, client: Client, tmp_path: Path
) -> None:
    kinds = (MatchingId.EMAIL, MatchingId.PHONE_NUMBER)
    files: dict[Any, Path] = {}
    for kind in kinds:
        files[kind] = tmp_path / f"{kind}.csv"
        files[kind].write_text(f"{kind}\n")
    lab = DataLabBuilder(client).with_name("Two").with_matching_id_format(*kinds).build()
    for wrong in (files[MatchingId.EMAIL], {MatchingId.EMAIL: files[MatchingId.EMAIL]}, None, {"NAME": "x"}):
        with pytest.raises(InvalidRequestError):
            lab.provision_local_datasets(matching_data_path=wrong)
    assert uploads.sent == []
    uploads.answer("create_lab", {"id": "lab2"})
    lab.provision_local_datasets(matching_data_path=files)
    assert set(uploads.sent[-1].params["datasets"]) == {"matching:EMAIL", "matching:PHONE_NUMBER"}


def test_undeclared_datasets_are_rejected(uploads: FakeServer, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("x\n")
    lab = DataLabBuilder(client).with_name("Plain").with_matching_id_format(MatchingId.STRING).build()
    with pytest.raises(InvalidRequestError, match="without segments"):
        lab.provision_local_datasets(matching_data_path=file, segments_data_path=file)
    with pytest.raises(InvalidRequestError, match="with segments"):
        built_lab(client).provision_local_datasets(matching_data_path=file)
    assert uploads.sent == []


def test_the_length_of_embeddings_is_a_whole_number(client: Client) -> None:
    def is_rejected(n: Any) -> None:
        with pytest.raises(InvalidRequestError):
            DataLabBuilder(client).with_embeddings(n)

    assert_each(is_rejected, [0, -1, 1.0, True])


def test_a_lab_without_name_or_matching_ids_is_not_built(client: Client) -> None:
    with pytest.raises(InvalidRequestError):
        DataLabBuilder(client).with_matching_id_format(MatchingId.STRING).build()
    with pytest.raises(InvalidRequestError):
        DataLabBuilder(client).with_name("x").build()
