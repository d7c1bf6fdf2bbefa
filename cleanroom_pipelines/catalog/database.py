"""The database: connections, transactions and the schema's version.

Lives here: the read and write transactions, migration under a lock, and the translation of SQLAlchemy's errors.
Add here when a transaction needs another rule.
Keep out: rows and rules; how SQLite and PostgreSQL are opened (storage.databases).
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    func,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.noting import Change
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError
from cleanroom_pipelines.storage.databases import BUSY_SECONDS, WRITES, make_engine
from cleanroom_pipelines.storage.identity import WAY_BACK
from cleanroom_pipelines.uploads.seed_files import MIN_SEED_IDS

# What this code was written for; `migrations/versions` ends here (a test says so). A constant, so that opening a
# catalogue does not import Alembic.
HEAD_REVISION = "0007"
# Not Alembic's own name for it: on PostgreSQL the tables of Dagster may stand beside ours.
VERSION_TABLE = "catalog_revision"
# Where a transaction's session notes the generation that it raised the installation to.
RAISED = "generation"

_ADVISORY_LOCK = 7_265_616_301

# When each database last failed to answer this process, in its monotonic seconds.
_last_outage: dict[URL, float] = {}


class CatalogUnavailableError(CleanroomError):
    """The catalogue's database does not answer, or stayed locked."""


class ClashError(CleanroomError):
    """A constraint of the database refused a row: somebody else was faster, or a rule was forgotten."""


class Database:
    """A connection to the catalogue, safe to pickle and to take across a fork.

    Args:
        url: SQLAlchemy URL: `sqlite:///<path>` or `postgresql://…`; as text, with `?` and `%` of a path as %3F and
            %25.
        clock: Gives the present time, aware. A module-level function where the catalogue is pickled.
        token_hex: Gives n random bytes as 2 n hex digits, like `secrets.token_hex`.
        seed_floor: The smallest `min_matching_seed_size` that may be configured; the AWS API's is 25.
        server_clock: Measure leases and heartbeats in the time of a database server, so that hosts whose clocks
            differ agree. SQLite has no clock but its host's, which is `clock`.
        on_generation: Called with the generation after each transaction that raised it. Picklable.

    Attributes:
        on_change: Called with every change that was made or rejected, if set; not pickled.
        now: The clock.
        token_hex: The source of random digits.

    Raises:
        ConfigurationError: The URL is not one of a database that can be used.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        clock: Callable[[], datetime],
        token_hex: Callable[[int], str],
        seed_floor: int = MIN_SEED_IDS,
        server_clock: bool = False,
        on_generation: Callable[[int], None] | None = None,
    ) -> None:
        self._url = _checked_url(url)
        self.now = clock
        self.token_hex = token_hex
        self.seed_floor = seed_floor
        self._server_clock = server_clock and self._url.get_backend_name() != "sqlite"
        self.on_change: Callable[[Change], None] | None = None
        self._on_generation = on_generation
        self._engine: Engine | None = None
        self._inherited: list[Engine] = []
        self._pid = os.getpid()
        self._is_checked = False
        self._turn: Lock | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {
            "on_change": None,
            "_engine": None,
            "_inherited": [],
            "_is_checked": False,
            "_turn": None,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url.render_as_string(hide_password=True)!r})"

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database; None for a server's."""
        return Path(str(self._url.database)) if self._url.get_backend_name() == "sqlite" else None

    @property
    def server(self) -> URL | None:
        """The URL of a server's database; None for an SQLite file."""
        return None if self.file else self._url

    def migrate(self) -> None:
        """Bring the database to this code's schema; several processes may do so at once.

        Raises:
            ConfigurationError: The database was made by newer code, or cannot be opened.
        """
        with _translated():
            with self._current_engine().connect() as connection:
                is_current = _found_revision(connection) == HEAD_REVISION and _is_wal(connection)
            if not is_current:  # looked at first without the lock, so that a reader need not wait for a writer
                self._migrate_under_lock()
        self._is_checked = True

    def _migrate_under_lock(self) -> None:
        engine = self._current_engine().execution_options(**WRITES)
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                _switch_to_wal(connection)
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
                # From here on one process at a time: on SQLite the transaction began as a write.
                found = _found_revision(connection)
                if found is not None and found > HEAD_REVISION:
                    raise ConfigurationError(
                        "The catalogue was made by a newer version of cleanroom_pipelines.",
                        remedy="Upgrade cleanroom_pipelines, or open another home.",
                    )
                if found != HEAD_REVISION:
                    _upgrade(connection)

    def stay_connected(self) -> None:
        """Keep connections between transactions, and let the writers of this process wait in line.

        For a process of many threads that never forks, before its first use. On SQLite a transaction then takes a
        third of the time: whoever closes the last connection also empties the log. And writers that find the
        database locked look again after up to 100 ms, while those who came later pass them.
        """
        if self._url.get_backend_name() == "sqlite":
            self.close()
            self._engine, self._turn = None, Lock()

    def close(self) -> None:
        """Close the connections of this process; the next use opens them again."""
        if self._engine is not None:
            self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One transaction that sees one state of the catalogue and changes nothing."""
        with self._noting_outages(), Session(self._current_engine()) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction that is carried out as a whole or not at all."""
        with self._noting_outages():
            engine = self._current_engine().execution_options(**WRITES)
            with (
                self._turn or nullcontext(),
                Session(engine, expire_on_commit=False) as session,
                session.begin(),
            ):
                yield session
        if (generation := session.info.get(RAISED)) and self._on_generation:
            self._on_generation(generation)

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """A connection for looking at a database whose schema may be of any release; it is left as it is."""
        with _translated(), self._current_engine().connect() as connection:
            yield connection

    def had_outage(self, seconds: float) -> bool:
        """Whether the database failed to answer this process within the last so many seconds.

        Nobody could renew a lease or send a heartbeat then, so a missing one proves nothing yet.
        """
        last = _last_outage.get(self._url)
        return last is not None and time.monotonic() - last < seconds

    @contextmanager
    def _noting_outages(self) -> Iterator[None]:
        try:
            self._ensure_schema()
            with _translated():
                yield
        except CatalogUnavailableError:
            _last_outage[self._url] = time.monotonic()
            raise

    def at(self, now: datetime | None) -> datetime:
        """A given time, or the present one."""
        return now if now is not None else self.now()

    def lease_time(self, session: Session, now: datetime | None = None) -> datetime:
        """The time in which leases and heartbeats are measured, UTC."""
        if now is None and self._server_clock:
            there: datetime = session.scalars(select(func.clock_timestamp())).one()
            return there.astimezone(UTC)
        return self.at(now)

    def _ensure_schema(self) -> None:
        if not self._is_checked:
            self.migrate()

    def _current_engine(self) -> Engine:
        if self._pid != os.getpid():
            # Never closed in this process: closing an inherited connection would speak on the parent's behalf.
            self._inherited += [self._engine] if self._engine is not None else []
            self._engine, self._pid, self._turn = None, os.getpid(), None
        if self._engine is None:
            self._engine = make_engine(self._url, stays_connected=self._turn is not None)
        return self._engine


class Part:
    """A part of the catalogue: methods about one noun, on the catalogue's database.

    Args:
        database: Where it reads and writes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database


def _checked_url(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(
            "The catalogue's URL cannot be read.",
            remedy="Give sqlite:///<path> or postgresql://<host>/<database>.",
        ) from None
    if parsed.get_backend_name() in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        raise ConfigurationError(
            "The catalogue's database is neither SQLite nor PostgreSQL.", remedy="Use one of these two."
        )
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigurationError(
            "The catalogue's database is in memory, where no other process sees it.",
            remedy="Give sqlite:///<path>.",
        )
    return parsed


def _switch_to_wal(connection: Connection) -> None:
    # SQLite answers "locked" at once, without waiting, while another process opens the same new file.
    cursor = connection.connection.cursor()
    for _ in range(BUSY_SECONDS * 20):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except connection.dialect.loaded_dbapi.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)
    raise CatalogUnavailableError(
        "The catalogue stayed locked by another process.", remedy="Stop that process, then try again."
    )


def _is_wal(connection: Connection) -> bool:
    if connection.dialect.name != "sqlite":
        return True
    return connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"


def _found_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=VERSION_TABLE)
    command.upgrade(config, HEAD_REVISION)


def damaged() -> ConfigurationError:
    """The error of a catalogue's file that SQLite cannot read."""
    return ConfigurationError("The catalogue's file is damaged.", remedy=WAY_BACK)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the failures of the database that have a known cause into our own."""
    try:
        yield
    except OperationalError as error:
        reason = str(error.orig)
        if "unable to open" in reason or "readonly" in reason:
            raise ConfigurationError(
                "The catalogue's database cannot be opened for writing.",
                remedy="See that its folder exists, that you may write there, and that its disk has space.",
            ) from None
        if "disk is full" in reason or "disk I/O error" in reason:  # the latter where its log finds no place
            raise CatalogUnavailableError(
                "The disk of the catalogue is full, or fails; nothing was changed.",
                remedy="Free some space, then try again.",
            ) from None
        raise CatalogUnavailableError(
            "The catalogue's database does not answer or stayed locked; nothing was changed.",
            remedy="See that it runs and is not held by another program, then try again.",
        ) from None
    except IntegrityError:
        raise ClashError("A row clashes with another one; nothing was changed.", remedy="Try again.") from None
    except DBAPIError as error:
        if "file is not a database" in str(error.orig):
            raise ConfigurationError(
                "The catalogue's file is not a database.",
                remedy=f"Check CLEANROOM_CATALOG_URL. {WAY_BACK}",
            ) from None
        if "malformed" in str(error.orig):
            raise damaged() from None
        # Only the class: PostgreSQL's texts quote what was to be stored.
        raise CatalogUnavailableError(
            f"The catalogue's database refused a statement ({type(error.orig).__name__}); nothing was changed.",
            remedy="See the database's own log.",
        ) from None
