"""Hive partitions: folders whose names, such as `country=CH`, contain the value of a column.

Lives here: finding the files below such folders, and the columns and values that their paths hold.
Add here when partition folders may have another form.
Keep out: file formats (`tables`), and SQL (the engines).
"""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

_MISSING = ("", "__HIVE_DEFAULT_PARTITION__")


def files_below(folder: Path) -> Iterator[Path]:
    """Yield a folder's files and those of its partition folders; skip names that start with `.` or `_`."""
    # Not recursive, since a participant could nest folders deeper than Python's calls may be.
    folders = [folder]
    while folders:
        for child in folders.pop().iterdir():
            if _is_hidden(child.name):
                continue
            if child.is_file():
                yield child
            # A link to a folder could lead in a circle.
            elif _pair(child.name) and child.is_dir() and not child.is_symlink():
                folders.append(child)


def files_of_pattern(pattern: str) -> tuple[Path, list[Path]]:
    """Return the folder where a glob starts, and the files it matches; skip names that start with `.` or `_`."""
    parts = Path(pattern).parts
    n_fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:n_fixed])
    named = set(parts)
    found = []
    for name in glob.glob(pattern, recursive=True):
        file = Path(name)
        inside = file.relative_to(root).parts
        if file.is_file() and not any(_is_hidden(part) and part not in named for part in inside):
            found.append(file)
    return root, found


def absolute(file: Path, root: Path) -> Path:
    """Return a file's absolute path; resolve links, but keep the names of partition folders."""
    inside = file.relative_to(root)
    return root.resolve() / inside if keys_of(inside) else file.resolve()


def keys_of(inside: Path) -> tuple[str, ...]:
    """Return the keys of the partition folders in a path, outermost first."""
    return tuple(pair[0] for part in inside.parent.parts if (pair := _pair(part)))


def value_of(file: Path, key: str) -> str | None:
    """Return the value that a file's path gives for a partition column; None if it is missing."""
    pairs = (_pair(part) for part in reversed(file.parent.parts))
    return next((pair[1] for pair in pairs if pair and pair[0] == key), None)


def values_of(files: Sequence[Path], key: str) -> list[str | None]:
    """Return the values of a partition column, one per file."""
    return [value_of(file, key) for file in files]


def _pair(name: str) -> tuple[str, str | None] | None:
    """Split a folder name `key=value`, decoding escapes such as %20; None if it is not of this form."""
    key, sign, value = name.partition("=")
    if not key or not sign or "\x00" in unquote(name):
        return None
    return unquote(key), None if value in _MISSING else unquote(value)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))
