"""Contract: one installation has one key, even if several processes create it at once; only its owner can read
it, and it is never printed. Keys for different purposes are independent; altered encrypted content is
rejected."""

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.storage import InstallationKey

KEY = InstallationKey(bytes(range(32)))


def load(path: Path, barrier: object, found: object) -> None:
    barrier.wait()
    found.put(InstallationKey.load_or_create(path).secret)


def test_concurrent_processes_create_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        path = tmp_path / str(attempt) / "installation.key"
        barrier, found = context.Barrier(8), context.Queue()
        processes = [context.Process(target=load, args=(path, barrier, found)) for _ in range(8)]
        for process in processes:
            process.start()
        secrets = {found.get() for _ in processes}
        for process in processes:
            process.join()
        assert secrets == {path.read_bytes()}
        assert [entry.name for entry in path.parent.iterdir()] == ["installation.key"]


def test_key_file_is_accessible_to_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        InstallationKey.load_or_create(tmp_path / "installation.key")
    finally:
        os.umask(before)
    assert (tmp_path / "installation.key").stat().st_mode & 0o777 == 0o600


def test_key_is_created_once(tmp_path: Path) -> None:
    path = tmp_path / "installation.key"
    first = InstallationKey.load_or_create(path)
    assert len(first.secret) == 32
    assert InstallationKey.load_or_create(path) == first
    assert InstallationKey.load_or_create(tmp_path / "other.key") != first


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_file_of_another_length_is_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "installation.key"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="32 bytes"):
        InstallationKey.load_or_create(path)
    assert path.read_bytes() == content


def test_folder_instead_of_the_key_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="IsADirectoryError"):
        InstallationKey.load_or_create(tmp_path)


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def no_randomness(n_bytes: int) -> bytes:
        if n_bytes == 32:
            raise OSError(28, "No space left on device")
        return bytes(n_bytes)

    with pytest.raises(ConfigurationError):
        InstallationKey.load_or_create(tmp_path / "installation.key", no_randomness)
    assert list(tmp_path.iterdir()) == []


def test_key_is_never_printed() -> None:
    for text in (repr(KEY), str(KEY), f"{KEY}"):
        assert text == "InstallationKey()"


def test_each_purpose_has_its_own_key() -> None:
    derived = [KEY.derive(purpose) for purpose in ("seeds", "seed", "audit", "")]
    assert len({*derived, KEY.secret}) == 5
    assert {len(key) for key in derived} == {32}
    assert KEY.derive("seeds") == derived[0]
    assert InstallationKey(bytes(32)).derive("seeds") != derived[0]


def test_derivation_is_unchanged() -> None:
    """Kept seeds and digests of an older home must stay readable."""
    assert KEY.derive("kept seeds").hex() == "a4dac2e362055adb36cad630fcd8748dff68e72ca7e708b6a275c51f15cb3cb3"
    assert KEY.digest("seed digests", b"x") == "7f19f979ab35c7922d5a45b531770d9241a7589963b6c1deb5dfee4db75e6ea8"


def test_digest_depends_on_key_and_purpose() -> None:
    assert KEY.digest("a", b"x") != KEY.digest("b", b"x")
    assert KEY.digest("a", b"x") != InstallationKey(bytes(32)).digest("a", b"x")


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4), st.lists(st.binary(max_size=40), max_size=4))
def test_digest_of_files_depends_on_their_contents(
    tmp_path_factory: pytest.TempPathFactory, first: list[bytes], second: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("digest")

    def digest_of(contents: list[bytes], name: str) -> str:
        files = tuple(folder / f"{name}{number}" for number in range(len(contents)))
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        return KEY.digest_files("tables", files)

    assert (digest_of(first, "a") == digest_of(second, "b")) == (first == second)


@given(st.binary(max_size=500))
def test_sealed_bytes_are_unsealed(content: bytes) -> None:
    sealed = KEY.seal("kept seeds", content)
    assert KEY.unseal("kept seeds", sealed) == content
    assert len(content) < 6 or content not in sealed


@given(st.binary(min_size=1, max_size=100), st.data())
def test_altered_bytes_are_rejected(content: bytes, data: st.DataObject) -> None:
    sealed = bytearray(KEY.seal("kept seeds", content))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] = (sealed[place] + data.draw(st.integers(1, 255))) % 256
    try:
        found = KEY.unseal("kept seeds", bytes(sealed))
    except ConfigurationError:
        return
    # base64's padding has bits that mean nothing
    assert found == content


def test_another_key_or_purpose_cannot_unseal() -> None:
    sealed = KEY.seal("kept seeds", b"members")
    for key, purpose in ((InstallationKey(bytes(32)), "kept seeds"), (KEY, "other")):
        with pytest.raises(ConfigurationError, match="altered or belongs to another"):
            key.unseal(purpose, sealed)
