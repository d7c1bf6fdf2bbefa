"""The catalogue's identity: whose it is, and how many versions it has seen published or deleted.

Lives here: reading it without changing the database, writing it once, raising the generation.
Add here when home and catalogue must agree on something more.
Keep out: the home's copy (storage.identity) and what follows when the two differ (runs.opening).
"""

from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, case, inspect, select, text, update
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import RAISED, ClashError, Part
from cleanroom_pipelines.catalog.tables import InstallationRow
from cleanroom_pipelines.storage.identity import Identity

_THE_ROW = 1
# Where one of these has a row, somebody used the catalogue: resources, and what is worthless without the key.
_TABLES_IN_USE = ("resources", "tokens", "access_keys", "uploads")


class Ownership(Part):
    """The part of the catalogue that knows whose it is."""

    def identity(self) -> Identity | None:
        """Whose catalogue this is; None where the database is missing, empty, of an older release or unclaimed.

        Changes nothing: no file is created and no schema is brought up to date.

        Raises:
            CatalogUnavailableError: The database does not answer.
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
        """Whether nothing was ever kept in this catalogue; changes nothing, as `identity`."""
        if not self.exists():
            return True
        with self._database.look() as connection:
            there = set(inspect(connection).get_table_names())
            return not any(_has_rows(connection, table) for table in _TABLES_IN_USE if table in there)

    def identify(self, identity: Identity) -> Identity:
        """Make this the catalogue of an installation, unless it is one's already.

        Returns:
            Whose it is now.
        """
        # another host may be faster, with another lock
        with suppress(ClashError), self._database.write() as session:
            if session.get(InstallationRow, _THE_ROW) is None:
                session.add(InstallationRow(number=_THE_ROW, **vars(identity)))
        found = self.identity()
        assert found is not None
        return found

    def exists(self) -> bool:
        """Whether there is a database to look into; opening a missing SQLite file would create it."""
        return self._database.file is None or (
            self._database.file.exists() and self._database.file.stat().st_size > 0
        )


def raise_generation(session: Session, at_least: int = 0) -> int:
    """Raise the generation in a transaction that publishes or deletes a version; the last lock that it takes.

    Args:
        session: The transaction.
        at_least: A generation that it is raised above in any case.

    Returns:
        The generation; 0 in a catalogue that no installation has opened.
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
