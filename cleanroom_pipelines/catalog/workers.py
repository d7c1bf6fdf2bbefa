"""Workers: the processes that run pending work, and the detection of dead ones.

Lives here: their heartbeats.
Add here when something else about a worker must be stored.
Keep out: the work; a claim's lease protects it even if the worker dies.
"""

from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select

from cleanroom_pipelines.catalog.database import Part
from cleanroom_pipelines.catalog.names import check_text
from cleanroom_pipelines.catalog.tables import WorkerRow


class Workers(Part):
    """The part of the catalogue that records the heartbeats of workers, and finds dead workers."""

    def heartbeat_worker(self, worker_id: str, now: datetime | None = None) -> None:
        """Record a heartbeat of a worker.

        Args:
            worker_id: At most 128 characters.
            now: UTC; the clock of leases if not given.

        Raises:
            UsageError: The id is invalid.
        """
        check_text("worker id", worker_id, 128)
        with self._database.write() as session:
            session.merge(WorkerRow(worker_id=worker_id, heartbeat_at=self._database.lease_time(session, now)))

    def dead_workers(self, silent_seconds: float = 60.0) -> tuple[str, ...]:
        """Return the workers that sent no heartbeat for this many seconds, oldest heartbeat first.

        Returns none right after a database outage, during which no worker could send one. A heartbeat from the
        future was sent before the clock was set back; it counts as sent now.
        """
        if self._database.had_outage(silent_seconds / 2):
            return ()
        silent = timedelta(seconds=silent_seconds)
        with self._database.read() as session:
            at = self._database.lease_time(session)
            is_odd = or_(WorkerRow.heartbeat_at <= at - silent, WorkerRow.heartbeat_at > at + silent)
            query = select(WorkerRow.worker_id, WorkerRow.heartbeat_at).where(is_odd)
            found = session.execute(query.order_by(WorkerRow.heartbeat_at, WorkerRow.worker_id)).all()
        for worker_id, heard in found:
            if heard > at:
                self.heartbeat_worker(worker_id, at)
        return tuple(worker_id for worker_id, heard in found if heard <= at)

    def forget_worker(self, worker_id: str) -> None:
        """Remove a worker that ended, or whose death was handled."""
        with self._database.write() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.worker_id == worker_id))
