"""Writers of the audit log that tests start as processes of their own.

Lives here: what such a process does. It imports no test and no pytest, for each of them has to import it.
"""

from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path

from cleanroom_pipelines.storage import InstallationKey
from cleanroom_pipelines.storage.audit import AuditLog

KEY = InstallationKey(bytes(range(32)))
ENTRY = {"way": "api", "operation": "DeleteAudienceModel", "account": "111122223333", "outcome": "accepted"}


def now() -> datetime:
    return datetime(2026, 3, 1, 12, tzinfo=UTC)


def write_some(folder: Path, name: int, n_entries: int, barrier: Barrier) -> None:
    log = AuditLog(folder, KEY, now)
    barrier.wait()
    for number in range(n_entries):
        log.write({**ENTRY, "request_id": f"{name}-{number}"})
        log.write_soon({**ENTRY, "request_id": f"{name}-s{number}"})
    log.close()
