"""Contract: an upload is stored encrypted and decrypts unchanged; truncated, swapped or altered files are
rejected."""

import os
from pathlib import Path

import pytest

from cleanroom_pipelines.errors import ConfigurationError, InputError
from cleanroom_pipelines.storage import Home, InstallationKey
from cleanroom_pipelines.storage.vault import Vault

from ..offenders import offenders

MIB = 1 << 20


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(Home.open(tmp_path), InstallationKey(b"k" * 32))


def chunks(content: bytes, size: int = 100_000) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def test_file_round_trip(vault: Vault, tmp_path: Path) -> None:
    def check(n_bytes: int) -> None:
        content = os.urandom(n_bytes)
        location = f"{n_bytes:08x}"
        sealed = vault.seal(location, chunks(content))
        assert sealed.n_bytes == n_bytes
        with vault.opening(sealed.location) as path:
            assert path.read_bytes() == content
        assert not path.exists()
        stored = (tmp_path / "uploads" / location).read_bytes()
        assert content[:64] not in stored or n_bytes < 16
        assert list(Home(tmp_path).scratch.iterdir()) == []

    assert offenders([0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 17], check) == []


def test_file_of_an_earlier_release_opens(vault: Vault, tmp_path: Path) -> None:
    """The form stays: nonce, pieces, purpose of the key."""
    (tmp_path / "uploads").mkdir()
    sealed = "000102030405060708090a0b062179567ad0d5da015ba8a720e6bdd7dbabf16280cd40fdb614b8fd96"
    (tmp_path / "uploads" / "00ff00ff").write_bytes(bytes.fromhex(sealed))
    digest = "9c5687a95d5dddb8183904ab244282521fdad40d9469487fafde2240fffab62f"
    with vault.opening("00ff00ff", digest) as path:
        assert path.read_bytes() == b"user_id\nanna\n"


def test_digest_depends_on_content_and_installation(tmp_path: Path, vault: Vault) -> None:
    once, again = vault.seal("00000001", [b"same"]), vault.seal("00000002", [b"sa", b"me"])
    other = Vault(Home.open(tmp_path / "other"), InstallationKey(b"o" * 32)).seal("00000001", [b"same"])
    assert once.digest == again.digest != other.digest
    assert (tmp_path / "uploads" / "00000001").read_bytes() != (tmp_path / "uploads" / "00000002").read_bytes()


def damaged(content: bytes) -> dict[str, bytes]:
    frame = MIB + 16
    first, second, rest = content[12 : 12 + frame], content[12 + frame : 12 + 2 * frame], content[12 + 2 * frame :]
    return {
        "a bit": content[:100] + bytes([content[100] ^ 1]) + content[101:],
        "the last piece is missing": content[: 12 + 2 * frame],
        "cut in a piece": content[:-3],
        "nothing but the header": content[:12],
        "not even the header": content[:5],
        "pieces swapped": content[:12] + second + first + rest,
        "a piece twice": content[:12] + first + first + second + rest,
    }


def test_damaged_file_is_rejected(vault: Vault, tmp_path: Path) -> None:
    vault.seal("00ff00ff", [os.urandom(2 * MIB + 5)])
    file = tmp_path / "uploads" / "00ff00ff"
    damages = damaged(file.read_bytes())

    def check(how: str) -> None:
        file.write_bytes(damages[how])
        with pytest.raises(ConfigurationError), vault.opening("00ff00ff"):
            pass
        assert list(Home(tmp_path).scratch.iterdir()) == []

    assert offenders(damages, check) == []


def test_interrupted_upload_leaves_nothing(vault: Vault, tmp_path: Path) -> None:
    def breaks_off():  # type: ignore[no-untyped-def]
        yield b"x" * MIB
        raise ConnectionError

    with pytest.raises(ConnectionError):
        vault.seal("00ff00ff", breaks_off())
    assert list((tmp_path / "uploads").iterdir()) == []


def test_only_valid_ids_open(vault: Vault) -> None:
    vault.seal("00ff00ff", [b"x"])

    def check(location: str | None) -> None:
        with pytest.raises(InputError), vault.opening(location):
            pass

    assert offenders([None, "", "../installation.key", "00ff00fe", "00FF00FE", "/etc/passwd"], check) == []


def test_deleted_file_cannot_be_opened(vault: Vault) -> None:
    sealed = vault.seal("00ff00ff", [b"x"])
    assert vault.locations() == {"00ff00ff"}
    vault.delete(sealed.location)
    vault.delete(sealed.location)
    vault.delete("../x")
    assert vault.locations() == frozenset()
