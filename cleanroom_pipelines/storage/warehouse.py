"""Warehouses: what a database and a table mean for an account.

Lives here: turning the two names into the folder of the table, and holding the table to that folder.
Keep out: reading it.
"""

import os
import re
from pathlib import Path

from cleanroom_pipelines.errors import StatusCode, TrainingDataError, UsageError
from cleanroom_pipelines.storage.home import Home

_ACCOUNT = re.compile(r"[0-9]{12}")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_ -]{0,126}[A-Za-z0-9_ ])?")


def warehouse_table(home: Home, account_id: str, database: str, table: str) -> Path:
    """The folder of a table: `accounts/<account>/warehouse/<database>/<table>`, whether or not it is there.

    Args:
        home: The installation's home.
        account_id: 12 digits.
        database: Letters, digits, underscores, dashes and spaces; at most 128.
        table: The same.

    Raises:
        UsageError: A name is not of that form, or a link leads elsewhere.
    """
    if not (_ACCOUNT.fullmatch(account_id) and _NAME.fullmatch(database) and _NAME.fullmatch(table)):
        raise UsageError(
            "The name of a database or table cannot be used.", remedy="Give plain letters, digits, _ and -."
        )
    warehouse = home.accounts / account_id / "warehouse"
    # What a name means must not depend on where a link of that name leads.
    real = Path(os.path.realpath(warehouse / database / table))
    if real != Path(os.path.realpath(warehouse)) / database / table:
        raise UsageError(
            "The table does not lie in the account's warehouse.", remedy="Put it there without links."
        )
    return warehouse / database / table


def reject_links(home: Home, account_id: str, folder: Path) -> None:
    """Refuse a table of a warehouse that a link would lead out of its folder, as `warehouse_table` did by name.

    Args:
        home: The installation's home.
        account_id: Whose warehouse.
        folder: What `warehouse_table` gave; what the operator declared elsewhere is passed over.

    Raises:
        TrainingDataError: A link leads out of it.
    """
    names = table_of(home, account_id, folder)
    if names is None:
        return
    real = Path(os.path.realpath(folder))
    is_moved = real != Path(os.path.realpath(home.accounts / account_id / "warehouse")).joinpath(*names)
    try:
        links = [file for file in folder.iterdir() if file.is_symlink()] if folder.is_dir() else []
    except OSError:
        links = []  # told by whoever reads it
    if is_moved or any(real not in Path(os.path.realpath(link)).parents for link in links):
        raise TrainingDataError(
            "A link leads out of the folder of the training data.",
            remedy="Put the files into the table's folder themselves.",
            status_code=StatusCode.TRAINING_DATA_INVALID,
        )


def table_of(home: Home, account_id: str, folder: Path) -> tuple[str, str] | None:
    """Database and table of a folder that `warehouse_table` gave; None for any other."""
    warehouse = home.accounts / account_id / "warehouse"
    if not folder.is_relative_to(warehouse):
        return None
    parts = folder.relative_to(warehouse).parts
    return (parts[0], parts[1]) if len(parts) == 2 else None
