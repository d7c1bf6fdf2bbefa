"""Warehouses: folders of an account's databases and tables.

Lives here: an account's databases, mapping names to a table's folder, and rejecting links that leave it.
Keep out: reading tables.
"""

import os
import re
from pathlib import Path

from cleanroom_pipelines.errors import StatusCode, TrainingDataError, UsageError
from cleanroom_pipelines.storage.home import Home

_ACCOUNT = re.compile(r"[0-9]{12}")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_ -]{0,126}[A-Za-z0-9_ ])?")


def warehouse_table(home: Home, account_id: str, database: str, table: str) -> Path:
    """Return a table's folder, `accounts/<account>/warehouse/<database>/<table>`, whether or not it exists.

    Args:
        home: The installation's home.
        account_id: 12 digits.
        database: Letters, digits, underscores, dashes and spaces; at most 128.
        table: The same.

    Raises:
        UsageError: A name is invalid, or the folder is reached through a link.
    """
    if not (_ACCOUNT.fullmatch(account_id) and _NAME.fullmatch(database) and _NAME.fullmatch(table)):
        raise UsageError(
            "The name of a database or table is invalid.",
            remedy="Use letters, digits, underscores, hyphens and spaces.",
        )
    warehouse = home.accounts / account_id / "warehouse"
    # The folder of a name must not depend on the target of a link.
    real = Path(os.path.realpath(warehouse / database / table))
    if real != Path(os.path.realpath(warehouse)) / database / table:
        raise UsageError(
            "The table is not stored in the account's warehouse.",
            remedy="Put its files there, without symbolic links.",
        )
    return warehouse / database / table


def warehouse_databases(home: Home, account_id: str) -> list[str]:
    """Return the names of an account's databases: the folders of its warehouse, in order."""
    warehouse = home.accounts / account_id / "warehouse"
    try:
        entries = sorted(entry.name for entry in os.scandir(warehouse) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [name for name in entries if _NAME.fullmatch(name)]


def reject_links(home: Home, account_id: str, folder: Path) -> None:
    """Reject a table with links that lead out of its warehouse folder; `warehouse_table` checks only the path.

    Args:
        home: The installation's home.
        account_id: Account of the warehouse.
        folder: Folder from `warehouse_table`; folders outside the warehouse, set by the operator, are not checked.

    Raises:
        TrainingDataError: A link leads out of the folder.
    """
    names = table_of(home, account_id, folder)
    if names is None:
        return
    real = Path(os.path.realpath(folder))
    is_moved = real != Path(os.path.realpath(home.accounts / account_id / "warehouse")).joinpath(*names)
    try:
        # At any depth, since a table's partitions are in folders of their own.
        links = [file for file in folder.rglob("*") if file.is_symlink()]
    except OSError:
        links = []  # reading the table reports the error
    if is_moved or any(real not in Path(os.path.realpath(link)).parents for link in links):
        raise TrainingDataError(
            "A symbolic link leads out of the training data's folder.",
            remedy="Put the files themselves into the table's folder.",
            status_code=StatusCode.TRAINING_DATA_INVALID,
        )


def table_of(home: Home, account_id: str, folder: Path) -> tuple[str, str] | None:
    """Return the database and table of a folder that `warehouse_table` returned; None for any other folder."""
    warehouse = home.accounts / account_id / "warehouse"
    if not folder.is_relative_to(warehouse):
        return None
    parts = folder.relative_to(warehouse).parts
    return (parts[0], parts[1]) if len(parts) == 2 else None


def is_key_of_table(key: str) -> bool:
    """Whether a key in a warehouse's bucket belongs to a table's file: `<database>/<table>/…`."""
    parts = key.split("/")
    return len(parts) > 2 and all(map(_NAME.fullmatch, parts[:2]))
