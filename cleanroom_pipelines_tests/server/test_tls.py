"""`cleanroom serve` speaks TLS with a certificate and key, or reports in one sentence why it cannot."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..cases import assert_each
from ..cli.commands import Commands
from .server import client, installation_at, serving, settle


@dataclass(frozen=True)
class Files:
    certificate: Path
    key: Path
    sealed_key: Path


def _write(folder: Path) -> Files:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    files = Files(folder / "certificate.pem", folder / "key.pem", folder / "sealed.pem")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files.key.write_bytes(key.private_bytes(*form, serialization.NoEncryption()))
    files.sealed_key.write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
    return files


def test_requests_over_tls(tmp_path: Path) -> None:
    files = _write(tmp_path)
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
    command, files = Commands(capsys, monkeypatch), _write(tmp_path)
    (tmp_path / "other").mkdir()
    other = _write(tmp_path / "other")

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
