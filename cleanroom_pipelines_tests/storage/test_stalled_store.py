"""A store that accepts connections and does not respond, or responds with errors.

Contract: each call ends, after the configured tries and timeouts, in one of our errors with a remedy; never in
an error of a library, whose text may contain anything. A draft that could not be stored leaves no local files.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cleanroom_pipelines.errors import StoreUnavailableError
from cleanroom_pipelines.storage.artifacts import ArtifactReference, ArtifactStore
from cleanroom_pipelines.storage.objects import Patience

REFERENCE = ArtifactReference("audience", "x-0123456789ab", "0001-abcdef01")
IMPATIENT = Patience(connect_seconds=0.5, answer_seconds=0.5, n_tries=2)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(params=["stalled", "500", "503", "closed"])
def store(request: pytest.FixtureRequest, tmp_path: Path, credentials: None) -> Iterator[ArtifactStore]:
    listening = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def take() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            if request.param == "stalled":
                held.append(connection)
                continue
            with connection:
                connection.recv(65536)
                connection.sendall(
                    f"HTTP/1.1 {request.param} Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                )

    thread = threading.Thread(target=take, daemon=True)
    port = listening.getsockname()[1]
    if request.param == "closed":
        listening.close()
    else:
        thread.start()
    (tmp_path / "scratch").mkdir()
    url = f"s3://bucket/artifacts?endpoint_override=127.0.0.1:{port}&scheme=http"
    yield ArtifactStore(url, tmp_path / "scratch", IMPATIENT)
    if request.param != "closed":
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(30)
    for connection in held:
        connection.close()


def write(store: ArtifactStore) -> None:
    drafted = store.drafting(REFERENCE, code_version="1", data_version="d", created_at="2026-03-01T12:00:00+00:00")
    with drafted as draft:
        (draft.path / "a.bin").write_bytes(b"a")


CALLS: dict[str, Callable[[ArtifactStore], object]] = {
    "manifest": lambda store: store.manifest(REFERENCE),
    "versions": lambda store: store.versions("audience", "x-0123456789ab"),
    "delete": lambda store: store.delete(REFERENCE),
    "write": write,
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_times_out_with_our_error(store: ArtifactStore, tmp_path: Path, call: str) -> None:
    with pytest.raises(StoreUnavailableError, match="is unreachable or rejected") as caught:
        CALLS[call](store)
    assert "CLEANROOM_ARTIFACTS_URL" in caught.value.remedy
    assert caught.value.__cause__ is None
    assert "127.0.0.1" not in str(caught.value)
    assert list((tmp_path / "scratch").iterdir()) == []
