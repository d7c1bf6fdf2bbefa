"""`cleanroom serve` speaks TLS with a certificate and key, or reports in one sentence why it cannot."""

from pathlib import Path

import httpx
import pytest

from ..cases import assert_each
from ..certificates import write_certificate
from ..cli.commands import Commands
from .server import client, installation_at, serving, settle


def test_requests_over_tls(tmp_path: Path) -> None:
    files = write_certificate(tmp_path)
    parties = settle(installation_at(tmp_path / "home"))
    options = ("--no-worker", "--tls-certificate", str(files.certificate), "--tls-key", str(files.key))
    with serving(tmp_path / "home", *options) as server:
        assert server.url.startswith("https://127.0.0.1:")
        identity = client(server.url, parties.publisher, service="sts", ca=files.certificate)
        assert identity.get_caller_identity()["Account"] == parties.publisher.account_id
        objects = client(server.url, parties.advertiser, service="s3", ca=files.certificate)
        objects.put_object(Bucket="advertiser-seeds", Key="a.jsonl", Body=b"{}")
        assert objects.get_object(Bucket="advertiser-seeds", Key="a.jsonl")["Body"].read() == b"{}"
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url.replace("https", "http"))
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url)  # not trusted


def test_certificates_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, files = Commands(capsys, monkeypatch), write_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other = write_certificate(tmp_path / "other")

    def is_rejected(certificate: Path | None, key: Path | None, words: str) -> None:
        options = [*(["--tls-certificate", str(certificate)] if certificate else [])]
        options += ["--tls-key", str(key)] if key else []
        ended = command("serve", "--port", "0", *options)
        assert (ended.code, ended.out) == (2, "")
        assert words in ended.err
        assert "Traceback" not in ended.err

    cases: list[tuple[Path | None, Path | None, str]] = [
        (files.certificate, None, "both --tls-certificate and --tls-key"),
        (None, files.key, "both --tls-certificate and --tls-key"),
        (files.certificate, other.key, "cannot be loaded"),
        (files.certificate, files.sealed_key, "cannot be loaded"),
        (files.certificate, tmp_path / "missing.pem", "cannot be loaded"),
        (files.key, files.certificate, "cannot be loaded"),
        (files.certificate, tmp_path, "cannot be loaded"),
    ]
    assert_each(is_rejected, cases)
