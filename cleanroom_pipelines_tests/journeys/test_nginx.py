"""Contract: behind nginx with `data/example/hosts/nginx.conf`, clients of all three APIs work over TLS without any
change: signatures stay valid whatever a key, a path or a header contains, uploads of any size pass without being
stored on the proxy's disk, and metrics are not shown.
"""

import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cleanroom_pipelines.media.client import Client
from cleanroom_pipelines.runs.credentials import issue_token

from ..architecture.tree import ROOT
from ..cases import assert_each
from ..certificates import write_certificate
from ..ports import free_port
from ..server.server import Parties, Server, client, dataset_parameters, installation_at, serving, settle
from ..worlds import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx (apt-get install nginx-light)"),
]
CONFIGURATION = ROOT / "data" / "example" / "hosts" / "nginx.conf"
EMAIL = "crm@advertiser.example"
KEYS = [
    "plain.jsonl",
    "two//slashes///three.jsonl",
    "space and + and %41 and 100%.jsonl",
    "ä ö/ü.jsonl",
    "a=b&c=d?e#f;g,h:i@j!k*l'm(n)~.jsonl",
    "tilde~/trailing.",
    "deep/" * 40 + "x",
]
# What differs here: ports, files, and folders of temporary files, which nginx has under /var/lib otherwise.
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True)
class Proxied:
    """A server behind nginx.

    Attributes:
        url: Where nginx listens.
        ca: Its certificate.
        parties: The parties of the small world.
        token: Of the user EMAIL.
        folder: nginx's own.
        server: The server behind it.
    """

    url: str
    ca: Path
    parties: Parties
    token: str
    folder: Path
    server: Server

    def client(self, service: str, **config: Any) -> Any:
        return client(self.url, self.parties.publisher, service=service, ca=self.ca, **config)


def configured(folder: Path, port: int, server_url: str) -> tuple[Path, Path]:
    """Write the example's configuration with other ports and files; return it and the certificate."""
    files = write_certificate(folder)
    text = CONFIGURATION.read_text()
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8723": server_url.removeprefix("http://"),
        "/etc/ssl/clean-room.pem": str(files.certificate),
        "/etc/ssl/clean-room.key": str(files.key),
        "http {": "http {" + "".join(f"{each}_temp_path {folder / each};" for each in _TEMPORARY),
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(text)
    return path, files.certificate


@pytest.fixture(scope="module")
def proxied() -> Iterator[Proxied]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        installation = installation_at(folder / "home")
        parties = settle(installation)
        installation.catalog.users.create_user(EMAIL)
        token, _ = issue_token(installation, EMAIL)
        with serving(folder / "home", "--no-worker") as server:
            port, own = free_port(), folder / "nginx"
            own.mkdir()
            path, ca = configured(own, port, server.url)
            # one process, of the user of the test
            options = f"daemon off; master_process off; pid {own / 'pid'};"
            log = own / "error.log"
            with subprocess.Popen(["nginx", "-p", own, "-c", path, "-e", log, "-g", options]) as nginx:
                try:
                    url = f"https://127.0.0.1:{port}"
                    wait_until(lambda: _responds(url, ca), seconds=30, what="nginx")
                    yield Proxied(url, ca, parties, token, own, server)
                finally:
                    nginx.terminate()


def _responds(url: str, ca: Path) -> bool:
    try:
        return _get(url, ca, "/_cleanroom/health").status_code == 200
    except httpx.TransportError:
        return False


def _get(url: str, ca: Path, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{url}{path}", verify=ssl.create_default_context(cafile=str(ca)), headers=headers)


def test_lookalike_api(proxied: Proxied) -> None:
    api, publisher = proxied.client("cleanroomsml"), proxied.parties.publisher
    arn = api.create_training_dataset(**dataset_parameters(publisher, tags={"päth//": "a b"}))[
        "trainingDatasetArn"
    ]
    assert api.get_training_dataset(trainingDatasetArn=arn)["name"] == "events"
    api.tag_resource(resourceArn=arn, tags={"more": "ü"})
    assert api.list_tags_for_resource(resourceArn=arn)["tags"] == {"päth//": "a b", "more": "ü"}
    assert proxied.client("sts").get_caller_identity()["Account"] == publisher.account_id


def test_objects_with_odd_keys(proxied: Proxied) -> None:
    objects = proxied.client("s3")

    def is_stored(key: str) -> None:
        content = key.encode() * 3
        objects.put_object(Bucket="odd-keys", Key=key, Body=content)
        assert objects.get_object(Bucket="odd-keys", Key=key)["Body"].read() == content
        assert objects.head_object(Bucket="odd-keys", Key=key)["ContentLength"] == len(content)
        signed = objects.generate_presigned_url("get_object", Params={"Bucket": "odd-keys", "Key": key})
        with httpx.Client(verify=ssl.create_default_context(cafile=str(proxied.ca))) as plain:
            assert plain.send(plain.build_request("GET", signed)).content == content

    assert_each(is_stored, KEYS)
    assert {each["Key"] for each in objects.list_objects_v2(Bucket="odd-keys")["Contents"]} == set(KEYS)
    objects.delete_object(Bucket="odd-keys", Key=KEYS[1])
    assert len(objects.list_objects_v2(Bucket="odd-keys")["Contents"]) == len(KEYS) - 1


def test_uploads_are_not_stored_by_the_proxy(proxied: Proxied, tmp_path: Path) -> None:
    for each in ("client_body", "proxy"):  # a file in place of the folder: nginx cannot write into it
        if (proxied.folder / each).is_dir():
            (proxied.folder / each).rmdir()
            (proxied.folder / each).touch()
    content = os.urandom(20_000_000)
    (tmp_path / "large").write_bytes(content)
    objects = proxied.client("s3")
    objects.put_object(Bucket="large", Key="whole", Body=content)
    objects.upload_file(str(tmp_path / "large"), "large", "in parts")
    for key in ("whole", "in parts"):
        assert objects.get_object(Bucket="large", Key=key)["Body"].read() == content


def test_signed_headers_with_unusual_names(proxied: Proxied) -> None:
    objects = proxied.client("s3")
    objects.put_object(Bucket="large", Key="described", Body=b"x", Metadata={"first_seen": "1", "a.b": "2"})
    assert objects.get_object(Bucket="large", Key="described")["Body"].read() == b"x"


def test_data_room_api(proxied: Proxied, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("".join(f"user-{number}@shop.example,loyal\n" for number in range(100_000)))
    with Client(proxied.url, proxied.token, verify=proxied.ca) as media:
        assert media.email == EMAIL
        assert media.get_data_rooms() == []
        digest = media.upload_dataset(tmp_path / "list.csv", name="loyal + 1%.csv")
        assert len(digest) > 30


def test_metrics_are_not_shown(proxied: Proxied) -> None:
    assert _get(proxied.url, proxied.ca, "/_cleanroom/metrics").status_code == 404, "rejected by nginx itself"

    def is_hidden(path: str) -> None:
        response = _get(proxied.url, proxied.ca, path)
        assert response.status_code in (403, 404)
        assert "cleanroom_disk" not in response.text

    spellings = ["/_cleanroom/metrics", "/%5Fcleanroom/metrics", "//_cleanroom/metrics", "/_cleanroom/./metrics"]
    assert_each(is_hidden, spellings)
    direct = httpx.get(f"{proxied.server.url}/_cleanroom/metrics")
    assert "cleanroom_disk_free_bytes" in direct.text
