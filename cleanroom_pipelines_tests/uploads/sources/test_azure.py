"""Contract: tables in Azure (here the emulator Azurite) are read like those in S3."""

import base64
import hashlib
import hmac
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import obstore
import pytest

from cleanroom_pipelines.errors import StatusCode, TrainingDataError
from cleanroom_pipelines.storage.remote_bucket import open_url
from cleanroom_pipelines.uploads.checks import INTERACTIONS
from cleanroom_pipelines.uploads.sources import Sources

from .training import model_of, write_days

pytestmark = [
    pytest.mark.sdk,
    pytest.mark.skipif(shutil.which("npm") is None, reason="Node and npm are not installed"),
]

_PACKAGE = "azurite@3.37.0"
_ACCOUNT = "devstoreaccount1"
# Every Azurite has this account and key.
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running emulator with a container `shop`."""
    folder = tmp_path_factory.mktemp("azurite")
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", _PACKAGE]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    serve = ["node", "node_modules/azurite/dist/src/blob/main.js", "--inMemoryPersistence", "--disableTelemetry"]
    serve += ["--blobPort", "0", "--skipApiVersionCheck"]
    with subprocess.Popen(serve, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = next(found[0] for line in server.stdout if (found := re.search(r"http://[0-9.:]+", line)))
            create_container(url, "shop")
            yield url
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


@pytest.fixture
def operator(azurite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of an operator who may read the store."""
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", azurite)


@pytest.mark.usefixtures("operator")
def test_the_model_is_that_of_local_files_and_only_what_is_new_is_fetched(
    tmp_path: Path, local_model: dict[str, bytes]
) -> None:
    store, files = open_url("az://shop"), write_days(tmp_path / "days")
    for file in files[:2]:
        obstore.put(store, f"events/day={file.stem}/part.parquet", file.read_bytes())
    model_of("az://shop/events/*/part.parquet", tmp_path, cached=True)
    before = {path: path.stat().st_ctime_ns for path in (tmp_path / "copies").rglob("*.parquet")}
    obstore.put(store, "events/day=2/part.parquet", files[2].read_bytes())
    assert model_of("az://shop/events/*/part.parquet", tmp_path, cached=True) == local_model
    after = {path: path.stat().st_ctime_ns for path in (tmp_path / "copies").rglob("*.parquet")}
    assert (len(before), len(after)) == (2, 3)
    assert before.items() <= after.items()


@pytest.mark.usefixtures("operator")
def test_columns_and_what_is_missing(tmp_path: Path) -> None:
    obstore.put(open_url("az://shop"), "lists/country=CH/a.csv", b"user,item\n1,2\n")
    sources = Sources(tmp_path)
    assert sources.columns("az://shop/lists", INTERACTIONS) == ("user", "item", "country")
    for source in ("az://shop/nothing", "az://other/lists"):
        with pytest.raises(TrainingDataError) as caught:
            sources.columns(source, INTERACTIONS)
        assert caught.value.status_code == StatusCode.TRAINING_DATA_NOT_FOUND
        assert "other" not in str(caught.value)
