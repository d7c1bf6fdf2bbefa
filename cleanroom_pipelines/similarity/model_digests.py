"""The digests of a model's files, by which damage is told.

Lives here: writing `digests.json` when a model is whole, and checking a model against it.
Add here when more about a model's files must be kept.
Keep out: what is in them (model).

A damaged file can often still be read: what comes out is then wrong without a word. Whoever opens a model that no
manifest of an artifact covers checks it once, before the work, not at each of the many times that it is opened in
the course of it.

    digests.json    {"<file>": "<SHA-256 hex>", …} in the order of the names, exactly as written here
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cleanroom_pipelines.errors import ArtifactError

DIGESTS_FILE = "digests.json"
_MODEL_FILE = "model.json"  # no model is without it
_THREADS = 4  # hashing is done outside of the interpreter's lock


def write_digests(folder: Path) -> None:
    """Write the digests of all files that a model's folder holds.

    Args:
        folder: The model, whole but for its digests.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    (folder / DIGESTS_FILE).write_bytes(_written(dict(zip(names, _digests(folder, names), strict=True))))


def check_digests(folder: Path) -> bool:
    """Check a model against the digests of its files.

    Args:
        folder: The model.

    Returns:
        Whether it has any: those trained before 2026-11-29 have none and can be used all the same, since training
        them again may need data that are gone.

    Raises:
        ArtifactError: A file was altered or is missing.
    """
    try:
        content = (folder / DIGESTS_FILE).read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        raise _damaged(DIGESTS_FILE) from None
    try:
        wanted = json.loads(content)
        is_whole = isinstance(wanted, dict) and _MODEL_FILE in wanted and _written(wanted) == content
    except (ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise _damaged(DIGESTS_FILE)
    for name, found in zip(wanted, _digests(folder, [*wanted]), strict=True):
        if found != wanted[name]:
            raise _damaged(name)
    return True


def _digests(folder: Path, names: list[str]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda name: _digest(folder / name), names))


def _digest(path: Path) -> str:
    """SHA-256 hex of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _written(digests: object) -> bytes:
    return json.dumps(digests, indent=0).encode()


def _damaged(name: str) -> ArtifactError:
    return ArtifactError(
        f"The audience model is damaged: {name} was altered after training or is missing.",
        remedy="Train it again.",
    )
