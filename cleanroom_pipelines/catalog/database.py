"""The database: connections, transactions and the schema's version.

Lives here: read and write transactions, migration under a lock, the translation of SQLAlchemy's errors; `noted`,
which reports each call that changes the catalogue, successful or rejected, for the audit log.
Add here when all transactions must follow another rule, or another argument identifies what is changed.
Keep out: the audit log (storage); bookkeeping of runs, which is not reported; rows and rules; opening SQLite and
PostgreSQL (`storage.databases`).
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from inspect import signature as signature_of
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Select,
    event,
    func,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.tables import Base, Record, record_of
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError
from cleanroom_pipelines.storage.databases import BUSY_SECONDS, WRITES, make_engine
from cleanroom_pipelines.storage.identity import WAY_BACK
from cleanroom_pipelines.uploads.seed_files import MIN_SEED_IDS
from cleanroom_pipelines.ways_in import REQUEST, acting_for, way_in

# The schema of this code and the last step in `migrations/versions` (tested). A constant, so that opening a
# catalogue does not import Alembic.
HEAD_REVISION = "0011"
# Not Alembic's default name: on PostgreSQL, Dagster's tables may be in the same database.
VERSION_TABLE = "catalog_revision"
# Key in `Session.info` of the generation that the transaction raised the installation to.
RAISED = "generation"

_ADVISORY_LOCK = 7_265_616_301

# When each database last failed to respond to this process, in monotonic seconds.
_last_outage: dict[URL, float] = {}
# The database whose reads share a transaction in this thread, and the transaction once there is one.
_shared: ContextVar["tuple[Database, list[Session]] | None"] = ContextVar("shared", default=None)


class CatalogUnavailableError(CleanroomError):
    """The catalogue's database does not respond, or stayed locked."""


class ClashError(CleanroomError):
    """A database constraint rejected a row, usually because a concurrent writer got there first."""


class Database:
    """A connection to the catalogue, safe to pickle and to use after a fork.

    Args:
        url: SQLAlchemy URL: `sqlite:///<path>` or `postgresql://…`. In a text, write `?` and `%` of a path as %3F
            and %25.
        clock: Returns the current time, with a time zone. A module-level function if the catalogue is pickled.
        token_hex: Returns n random bytes as 2 n hex digits, like `secrets.token_hex`.
        seed_floor: The smallest `min_matching_seed_size` that may be configured; the AWS API's is 25.
        server_clock: Whether to measure leases and heartbeats by the database server's clock, so that hosts with
            different clocks agree. With SQLite, `clock` is always used.
        on_generation: Called with the generation after each transaction that raised it. Picklable.

    Attributes:
        on_change: Called with every change, applied or rejected, if set; not pickled.
        now: The clock.
        token_hex: The source of random digits.

    Raises:
        ConfigurationError: The URL is invalid, or its database is not supported.
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
        """The file of an SQLite database; None for a database server."""
        return Path(str(self._url.database)) if self._url.get_backend_name() == "sqlite" else None

    @property
    def server(self) -> URL | None:
        """The URL of a database server; None for an SQLite file."""
        return None if self.file else self._url

    def migrate(self) -> None:
        """Migrate the database to this code's schema; safe to call from several processes at once.

        Raises:
            ConfigurationError: The database was created by newer code, or cannot be opened.
        """
        with _translated():
            with self._current_engine().connect() as connection:
                is_current = _found_revision(connection) == HEAD_REVISION and _is_wal(connection)
            if not is_current:  # checked first without the lock, so that a reader need not wait for a writer
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
                # From here on one process at a time: on SQLite, the transaction started as a write.
                found = _found_revision(connection)
                if found is not None and found > HEAD_REVISION:
                    raise ConfigurationError(
                        "The catalogue was created by a newer version of cleanroom_pipelines.",
                        remedy="Upgrade cleanroom_pipelines, or open another home.",
                    )
                if found != HEAD_REVISION:
                    _upgrade(connection)

    def stay_connected(self) -> None:
        """Keep connections open between transactions, and let the writing threads of this process take turns.

        Call it before the first use, in a multi-threaded process that never forks. On SQLite a transaction then
        takes a third of the time, because closing the last connection would checkpoint the log each time. Without
        the queue, a writer that finds the database locked waits up to 100 ms while later writers overtake it.
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
        """Open a read-only transaction on a consistent state of the catalogue."""
        database, sessions = _shared.get() or (None, [])
        if database is not self:
            with self._noting_outages(), Session(self._current_engine()) as session:
                yield session
            return
        with self._noting_outages():
            if not sessions:
                sessions.append(_keeping_session(self._current_engine()))
            yield sessions[0]

    @contextmanager
    def reading_once(self) -> Iterator[None]:
        """Let this thread's reads in the `with` body share one transaction, and read each row only once.

        A page reads the same rows dozens of times; on SQLite each read costs half a millisecond of CPU. After a
        write of this thread, the following reads see it.
        """
        sessions: list[Session] = []
        token = _shared.set((self, sessions))
        try:
            yield
        finally:
            _shared.reset(token)
            for session in sessions:
                session.close()

    @contextmanager
    def write(self, *, clash: CleanroomError | None = None) -> Iterator[Session]:
        """Open a write transaction, committed as a whole or not at all.

        Args:
            clash: Raised in place of ClashError, if the caller knows what a concurrent writer has taken.
        """
        database, sessions = _shared.get() or (None, [])
        while database is self and sessions:
            sessions.pop().close()
        try:
            with self._noting_outages():
                engine = self._current_engine().execution_options(**WRITES)
                with (
                    self._turn or nullcontext(),
                    Session(engine, expire_on_commit=False) as session,
                    session.begin(),
                ):
                    yield session
        except ClashError as error:
            raise clash or error from None
        if (generation := session.info.get(RAISED)) and self._on_generation:
            self._on_generation(generation)

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """Open a read-only connection to a database of any schema version, without migrating it."""
        with _translated(), self._current_engine().connect() as connection:
            yield connection

    def had_outage(self, seconds: float) -> bool:
        """Return whether, within the last `seconds` seconds, the database did not respond to this process.

        During an outage no process can renew a lease or send a heartbeat, so a missing one proves nothing.
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

    def lease_time(self, session: Session, now: datetime | None = None) -> datetime:
        """Return the UTC time for leases and heartbeats, from the database server if `server_clock` is set."""
        if now is None and self._server_clock:
            there: datetime = session.scalars(select(func.clock_timestamp())).one()
            return there.astimezone(UTC)
        return now if now is not None else self.now()

    def _ensure_schema(self) -> None:
        if not self._is_checked:
            self.migrate()

    def _current_engine(self) -> Engine:
        if self._pid != os.getpid():
            # Never closed here: closing an inherited connection would end the parent process's session.
            self._inherited += [self._engine] if self._engine is not None else []
            self._engine, self._pid, self._turn = None, os.getpid(), None
        if self._engine is None:
            self._engine = make_engine(self._url, stays_connected=self._turn is not None)
        return self._engine


class Part:
    """Base class of the catalogue's parts; each part has the methods for one kind of record.

    Args:
        database: The catalogue's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def _get(self, record: type[Record], of: type[Base], key: str) -> Record | None:
        """Return the record of the row with a primary key; None if there is no such row."""
        with self._database.read() as session:
            row = session.get(of, key)
            return None if row is None else record_of(record, row)

    def _all(self, record: type[Record], query: Select[Any]) -> tuple[Record, ...]:
        """Return the records of the rows that a query selects, in its order."""
        with self._database.read() as session:
            return tuple(record_of(record, row) for row in session.scalars(query))


def _keeping_session(engine: Engine) -> Session:
    """Return a session that keeps every row it has read; a plain session forgets rows no longer in use."""
    session = Session(engine)
    kept: list[object] = []
    event.listen(session, "loaded_as_persistent", lambda _, row: kept.append(row))
    return session


def _checked_url(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(
            "The catalogue's URL is invalid.",
            remedy="Give sqlite:///<path> or postgresql://<host>/<database>.",
        ) from None
    if parsed.get_backend_name() in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        raise ConfigurationError(
            "The catalogue's database is neither SQLite nor PostgreSQL.", remedy="Use SQLite or PostgreSQL."
        )
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigurationError(
            "The catalogue's database is in memory, so other processes cannot use it.",
            remedy="Give sqlite:///<path>.",
        )
    return parsed


def _switch_to_wal(connection: Connection) -> None:
    # SQLite reports "locked" immediately, without waiting, while another process opens the same new file.
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
    """Return the error for a catalogue file that SQLite cannot read."""
    return ConfigurationError("The catalogue's file is damaged.", remedy=WAY_BACK)


@contextmanager
def _translated() -> Iterator[None]:
    """Translate the database's errors into this package's errors."""
    try:
        yield
    except OperationalError as error:
        reason = str(error.orig)
        if "unable to open" in reason or "readonly" in reason:
            raise ConfigurationError(
                "The catalogue's database cannot be opened for writing.",
                remedy="Check that its folder exists and is writable, and that its disk has space.",
            ) from None
        if "disk is full" in reason or "disk I/O error" in reason:  # the latter if there is no space for its log
            raise CatalogUnavailableError(
                "The disk of the catalogue is full or failing; nothing was changed.",
                remedy="Free some space, then try again.",
            ) from None
        raise CatalogUnavailableError(
            "The catalogue's database does not respond or stayed locked; nothing was changed.",
            remedy="Check that it is running and that no other program locks it, then try again.",
        ) from None
    except IntegrityError:
        raise ClashError(
            "A concurrent change conflicts with this one; nothing was changed.", remedy="Try again."
        ) from None
    except DBAPIError as error:
        if "file is not a database" in str(error.orig):
            raise ConfigurationError(
                "The catalogue's file is not a database.",
                remedy=f"Check CLEANROOM_CATALOG_URL. {WAY_BACK}",
            ) from None
        if "malformed" in str(error.orig):
            raise damaged() from None
        # Only the class name: PostgreSQL's messages quote values.
        raise CatalogUnavailableError(
            f"The catalogue's database rejected a statement ({type(error.orig).__name__}); nothing was changed.",
            remedy="Check the database's own log.",
        ) from None


_KEYS = (
    "resource_id",
    "job_id",
    "model_id",
    "configured_id",
    "data_room_id",
    "collaboration_id",
    "key_id",
    "token_id",
    "upload_id",
)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Change:
    """One change to the catalogue, applied or rejected.

    Attributes:
        operation: The name of the catalogue's method.
        way: The entry point: cli, inbox, ui, schedule, worker.
        resource: The key of the changed object, if it has one.
        account: The account concerned, if any.
        email: The user concerned, if any; never logged in plain text.
        error: The error that rejected it; None if it was applied.
    """

    operation: str
    way: str
    resource: str | None
    account: str | None
    email: str | None
    error: CleanroomError | None


def noted(method: F) -> F:
    """Decorate a method that changes the catalogue: pass each applied or rejected call to `on_change`."""
    signature = signature_of(method)

    @wraps(method)
    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        way = way_in()
        if self._database.on_change is None or way == REQUEST:
            return method(self, *args, **kwargs)
        try:
            with acting_for(REQUEST):  # a decorated method that calls another one is reported once
                result = method(self, *args, **kwargs)
        except CleanroomError as error:
            given = signature.bind(self, *args, **kwargs).arguments
            self._database.on_change(_change(method.__name__, way, given, None, error))
            raise
        given = signature.bind(self, *args, **kwargs).arguments
        self._database.on_change(_change(method.__name__, way, given, result, None))
        return result

    return cast(F, noting)


def _change(
    operation: str, way: str, given: dict[str, Any], result: object, error: CleanroomError | None
) -> Change:
    resource = next((given[name] for name in _KEYS if isinstance(given.get(name), str)), None)
    of_result = (getattr(result, name, None) for name in ("resource_id", "id", "key_id", "token_id"))
    return Change(
        operation=operation,
        way=way,
        resource=resource or next((key for key in of_result if isinstance(key, str)), None),
        account=given.get("account_id") or getattr(result, "account_id", None),
        email=given.get("email"),
        error=error,
    )
