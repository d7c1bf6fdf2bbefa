"""Databases: opening SQLite and PostgreSQL.

Lives here: the SQLAlchemy engine with the settings that catalogue and audit log share.
Add here when a database needs another setting.
Keep out: tables, and their errors.
"""

from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.exc import NoSuchModuleError

from cleanroom_pipelines.errors import ConfigurationError

BUSY_SECONDS = 30
_WRITE = "cleanroom_writes"
# Execution options of a write transaction.
WRITES = {_WRITE: True}


def make_engine(url: URL, *, stays_connected: bool = False) -> Engine:
    """Return an engine for a database; it connects when it is first used.

    Args:
        url: An SQLite file or a PostgreSQL server.
        stays_connected: Keep connections to an SQLite file between transactions; they must not cross a fork.

    Raises:
        ConfigurationError: The driver is not installed.
    """
    # hide_parameters: error messages would otherwise quote stored values.
    if url.get_backend_name() != "sqlite":
        try:
            return create_engine(url, hide_parameters=True, pool_pre_ping=True, pool_size=5)
        except (ImportError, NoSuchModuleError):
            raise ConfigurationError(
                "The driver for PostgreSQL is not installed.",
                remedy="Install cleanroom_pipelines with the extra postgresql.",
            ) from None
    options: dict[str, Any] = {"poolclass": NullPool}  # SQLite's connections do not survive a fork
    if stays_connected:
        options = {"poolclass": QueuePool, "pool_size": 8, "max_overflow": -1}
    connect_args = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(url, hide_parameters=True, connect_args=connect_args, **options)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver's own transactions start too late; see _begin_sqlite
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")  # in WAL mode NORMAL may lose the last commits on a power cut


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads before it writes fails without waiting if another one wrote in between.
    writes = connection.get_execution_options().get(_WRITE)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
