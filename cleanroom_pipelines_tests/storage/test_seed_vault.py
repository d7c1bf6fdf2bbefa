"""Contract: while its job needs it, a seed is stored in its own slot, atomically and only encrypted, and its
decrypted copy is deleted after use; seeds of earlier releases can be opened too. User input never becomes
part of a path, and only the seed's own slot is ever deleted."""

import os
import shutil
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleanroom_pipelines.errors import SeedError, StorageFullError, UsageError
from cleanroom_pipelines.storage import Home, InstallationKey, SeedVault

from ..offenders import offenders

SLOT = "0123456789abcdef"
CANARY = b"canary@example.com"
KEY = InstallationKey(bytes(range(32)))


@pytest.fixture
def vault(home: Home) -> SeedVault:
    return SeedVault(home, KEY)


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    path = tmp_path / "my members.csv"
    path.write_bytes(b"user_id\n" + CANARY + b"\n")
    return path


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def holds_canary(folder: Path) -> bool:
    return any(CANARY in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("move", [False, True])
def test_seed_is_stored_opened_and_deleted(home: Home, vault: SeedVault, seed: Path, move: bool) -> None:
    content = seed.read_bytes()
    location = vault.put(SLOT, seed, move=move)
    assert location == vault.find(SLOT) == f"{SLOT}/seed.csv.vault"
    assert seed.exists() is not move
    assert not holds_canary(home.seeds)
    with vault.opening(location) as path:
        assert path.read_bytes() == content
        assert path.name == "seed.csv"
    assert not holds_canary(home.scratch)
    assert below(home.scratch) == []
    vault.delete(location)
    vault.delete(location)
    assert below(home.seeds) == []
    with pytest.raises(SeedError) as caught, vault.opening(location):
        pass
    assert caught.value.status_code == "SEED_NOT_FOUND"


def test_decrypted_copy_is_deleted_even_on_failure(home: Home, vault: SeedVault, seed: Path) -> None:
    location = vault.put(SLOT, seed)
    for error in (ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), vault.opening(location) as path:
            assert CANARY in path.read_bytes()
            assert path.parent.stat().st_mode & 0o077 == 0
            raise error
        assert below(home.scratch) == []


def test_slot_is_accessible_to_its_owner_only(home: Home, vault: SeedVault, seed: Path) -> None:
    vault.put(SLOT, seed)
    assert (home.seeds / SLOT).stat().st_mode & 0o077 == 0
    assert home.seeds.stat().st_mode & 0o077 == 0


def test_only_the_format_of_the_name_is_used(vault: SeedVault, tmp_path: Path) -> None:
    def check(suffix: str) -> None:
        path = tmp_path / f"..' ünd\n🛒.csv.x{suffix.upper()}"
        path.write_bytes(b"x")
        location = vault.put(SLOT, path)
        assert location == f"{SLOT}/seed{suffix}.vault"
        vault.delete(location)

    suffixes = [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.gz", ".parquet.gz"]
    assert offenders(suffixes, check) == []


def test_unsupported_format_is_rejected(home: Home, vault: SeedVault, tmp_path: Path) -> None:
    def check(name: str) -> None:
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(SeedError) as caught:
            vault.put(SLOT, tmp_path / name, move=True)
        assert caught.value.status_code == "SEED_INVALID"
        assert (tmp_path / name).exists()
        assert below(home.seeds) == []

    assert offenders(["seed.xlsx", "seed", "seed.csv.zip", "csv", ".gz", "seed.csv "], check) == []


@given(st.one_of(st.text(max_size=30), st.from_regex(r"\A[0-9a-f./-]{1,30}\Z")))
@example("..")
@example("0123456789abcdef/..")
@example("0123456789abcdef\n")
@example("-123456789abcdef")
def test_slot_name_must_be_hex(text: str) -> None:
    vault = SeedVault(Home(Path("/nowhere")), KEY)
    try:
        folder = vault.folder_of(text)
    except UsageError:
        return
    assert folder.parent == Path("/nowhere/seeds")
    assert set(folder.name) <= set("0123456789abcdef-")


def test_only_seeds_are_opened_or_deleted(home: Home, vault: SeedVault, seed: Path) -> None:
    locations = [
        None,
        "",
        ".",
        "..",
        "/",
        "../catalog.db",
        "..//seed.csv",
        f"{SLOT}",
        f"{SLOT}/",
        f"{SLOT}/..",
        f"{SLOT}/../seed.csv",
        f"{SLOT}/drop.json",
        f"{SLOT}/seed.csv/..",
        f"./{SLOT}/seed.csv",
        f"{SLOT}//seed.csv",
        f"{SLOT}/seed.csv\0",
        "/etc/hostname",
    ]
    vault.put(SLOT, seed)
    (home.root / "catalog.db").write_bytes(b"catalogue")
    (home.seeds / SLOT / "drop.json").write_text("{}")
    before = below(home.root)

    def check(location: str | None) -> None:
        vault.delete(location)
        assert below(home.root) == before
        with pytest.raises(SeedError), vault.opening(location):
            pass

    assert offenders(locations, check) == []


def test_link_in_a_slot_is_not_followed(home: Home, vault: SeedVault, tmp_path: Path, seed: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copyfile(seed, other / "seed.csv")
    (home.seeds / SLOT).symlink_to(other)
    with pytest.raises(SeedError), vault.opening(f"{SLOT}/seed.csv"):
        pass
    vault.delete(f"{SLOT}/seed.csv")
    assert below(other) == ["seed.csv"]


def test_drop_is_stored_completely_before_it_is_deleted(home: Home, vault: SeedVault, seed: Path) -> None:
    content, replace = seed.read_bytes(), os.replace

    def watched(source: Path, target: Path) -> None:
        assert seed.read_bytes() == content
        replace(source, target)

    with mock.patch.object(os, "replace", watched):
        location = vault.put(SLOT, seed, move=True)
    assert not seed.exists()
    with vault.opening(location) as path:
        assert path.read_bytes() == content
    assert len(below(home.seeds)) == 2


@pytest.mark.parametrize("error", [OSError(28, os.strerror(28)), KeyboardInterrupt()])
def test_interruption_keeps_only_the_drop(home: Home, vault: SeedVault, seed: Path, error: BaseException) -> None:
    with (
        mock.patch.object(os, "replace", side_effect=error),
        pytest.raises(StorageFullError if isinstance(error, OSError) else KeyboardInterrupt),
    ):
        vault.put(SLOT, seed, move=True)
    assert seed.exists()
    assert vault.find(SLOT) is None
    assert below(home.seeds) == []


def test_full_disk_keeps_the_slots_content(home: Home, vault: SeedVault, seed: Path) -> None:
    (home.seeds / SLOT).mkdir()
    (home.seeds / SLOT / "drop.json").write_text("{}")
    full = OSError(28, os.strerror(28))
    with mock.patch.object(os, "replace", side_effect=full), pytest.raises(StorageFullError):
        vault.put(SLOT, seed)
    assert below(home.seeds) == [SLOT, f"{SLOT}/drop.json"]


BEFORE = {
    "seed.csv": b"user_id\nanna\n",
    "seed.csv.sealed": b"gAAAAABrDTWv3rMBUlXvdJVtGJXftKrsijCRd3mfmv5jNwbgf8Sfv2vAPTlnHh5KJGuQo2zd8P01WhnKvI2xIIyf_"
    b"dxWsiz3EA==",
}


@pytest.mark.parametrize("name", BEFORE)
def test_seed_of_an_earlier_release_opens_and_is_deleted(home: Home, vault: SeedVault, name: str) -> None:
    (home.seeds / SLOT).mkdir()
    (home.seeds / SLOT / name).write_bytes(BEFORE[name])
    location = vault.find(SLOT)
    assert location == f"{SLOT}/{name}"
    digest = "3a2e1ba7913c183e25320712104e9d61d9f6893649fdefeaf1773abd3c013d25"
    with vault.opening(location, digest) as path:
        assert (path.name, path.read_bytes()) == ("seed.csv", b"user_id\nanna\n")
    with pytest.raises(SeedError, match="was altered"), vault.opening(location, "0" * 64):
        pytest.fail("opened")
    assert below(home.scratch) == []
    vault.delete(location)
    assert below(home.seeds) == []


def test_altered_sealed_seed_is_rejected(home: Home, vault: SeedVault, seed: Path) -> None:
    location = vault.put(SLOT, seed)
    path = home.seeds / location
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SeedError, match="was altered"), vault.opening(location):
        pytest.fail("opened")
    assert below(home.scratch) == []


def test_digest_depends_on_content_and_installation(home: Home, vault: SeedVault, seed: Path) -> None:
    twin = seed.with_name("other name.jsonl")
    shutil.copyfile(seed, twin)
    assert vault.digest(seed) == vault.digest(twin)
    assert SeedVault(home, InstallationKey(bytes(32))).digest(seed) != vault.digest(seed)
    twin.write_bytes(twin.read_bytes() + b"\n")
    assert vault.digest(seed) != vault.digest(twin)
