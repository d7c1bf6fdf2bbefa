"""The catalogue's identity: the installation it belongs to, and a counter of published and deleted versions.

Lives here: reading the identity without changing the database, writing it once, raising the counter (generation).
Add here when home and catalogue must agree on something more.
Keep out: the home's copy (`storage.identity`) and handling differences between the two (`runs.opening`).
"""

from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, case, inspect, select, text, update
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import RAISED, ClashError, Part
from cleanroom_pipelines.catalog.tables import InstallationRow
from cleanroom_pipelines.storage.identity import Identity

_THE_ROW = 1
# A row in one of these shows that the catalogue was used: resources, and records that need the key.
_TABLES_IN_USE = ("resources", "tokens", "access_keys", "uploads")


class Ownership(Part):
    """The part of the catalogue that stores the catalogue's identity."""

    def identity(self) -> Identity | None:
        """Return the catalogue's identity; None if the database is missing, empty, too old or not yet assigned.

        Changes nothing: it neither creates a file nor migrates the schema.

        Raises:
            CatalogUnavailableError: The database does not respond.
            ConfigurationError: Its file is not a database.
        """
        if not self.exists():
            return None
        with self._database.look() as connection:
            if not inspect(connection).has_table(InstallationRow.__tablename__):
                return None
            row = connection.execute(
                select(InstallationRow.id, InstallationRow.generation, InstallationRow.key_digest)
            ).first()
        return None if row is None else Identity(*row)

    def is_blank(self) -> bool:
        """Return whether this catalogue was never used; does not change the database."""
        if not self.exists():
            return True
        with self._database.look() as connection:
            there = set(inspect(connection).get_table_names())
            return not any(_has_rows(connection, table) for table in _TABLES_IN_USE if table in there)

    def identify(self, identity: Identity) -> Identity:
        """Assign this catalogue to an installation, unless it is already assigned.

        Returns:
            The resulting identity.
        """
        # Another host may get there first, since it holds a different lock.
        with suppress(ClashError), self._database.write() as session:
            if session.get(InstallationRow, _THE_ROW) is None:
                session.add(InstallationRow(number=_THE_ROW, **vars(identity)))
        found = self.identity()
        assert found is not None
        return found

    def exists(self) -> bool:
        """Return whether the database exists; opening a missing SQLite file would create it."""
        return self._database.file is None or (
            self._database.file.exists() and self._database.file.stat().st_size > 0
        )


def raise_generation(session: Session, at_least: int = 0) -> int:
    """Raise the generation counter, as the last step of a transaction that publishes or deletes a version.

    Args:
        session: The transaction.
        at_least: The new generation is above this one in any case.

    Returns:
        The new generation; 0 in a catalogue that no installation has opened.
    """
    before = case((InstallationRow.generation < at_least, at_least), else_=InstallationRow.generation)
    raised: Any = session.scalar(
        update(InstallationRow)
        .values(generation=before + 1)
        .returning(InstallationRow.generation)
        .execution_options(synchronize_session=False)
    )
    session.info[RAISED] = raised
    return int(raised or 0)


def _has_rows(connection: Connection, table: str) -> bool:
    return connection.execute(text(f"SELECT 1 FROM {table} LIMIT 1")).first() is not None
