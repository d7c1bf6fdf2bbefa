"""The project's own files, for tests that read them."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cleanroom_pipelines"
TESTS = ROOT / "cleanroom_pipelines_tests"
_BESIDE = ("README.md", "pyproject.toml", "workspace.yaml", ".ci/run", ".gitignore")


def modules(folder: Path = PACKAGE) -> list[Path]:
    """Return all Python modules of a folder."""
    return sorted(folder.rglob("*.py"))


def own_text() -> Iterator[tuple[Path, str]]:
    """Return every text file of the project that was written by a person."""
    files = [ROOT / name for name in _BESIDE]
    for folder in (PACKAGE, TESTS, ROOT / "data" / "example"):
        files += [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_made(path)]
    for path in files:
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture


def _is_made(path: Path) -> bool:
    """Whether a tool created the file, so that git does not track it."""
    return any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(ROOT).parts)
