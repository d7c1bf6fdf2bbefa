"""Digests of a model's files, for detecting damage.

Lives here: writing `digests.json` when a model is complete, and checking a model against it.
Add here when more about a model's files must be recorded.
Keep out: the contents of the files (model).

A damaged file can often still be read, and then silently gives wrong results. For a model without an artifact
manifest, the caller checks the digests once before the work starts, not each time the model is opened.

    digests.json    {"<file>": "<SHA-256 hex>", …} sorted by name; checked byte for byte
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cleanroom_pipelines.errors import ArtifactError

DIGESTS_FILE = "digests.json"
_MODEL_FILE = "model.json"  # every model has it
_THREADS = 4  # hashing releases the GIL


def write_digests(folder: Path) -> None:
    """Write the digests of all files in a model's folder.

    Args:
        folder: The model, complete except for its digests.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    (folder / DIGESTS_FILE).write_bytes(_written(dict(zip(names, _digests(folder, names), strict=True))))


def check_digests(folder: Path) -> bool:
    """Check a model against the digests of its files.

    Args:
        folder: The model.

    Returns:
        Whether the model has digests. Models trained before 2026-11-29 have none but stay usable, because the data
        for training them again may have been deleted.

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
