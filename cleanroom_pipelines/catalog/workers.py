"""Workers: the processes that drain pending work, and which of them have died.

Lives here: their heartbeats.
Add here when something else must be known of a worker.
Keep out: the work; a claim's lease guards it, whatever becomes of the worker.
"""

from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select

from cleanroom_pipelines.catalog.database import Part
from cleanroom_pipelines.catalog.names import check_text
from cleanroom_pipelines.catalog.tables import WorkerRow


class Workers(Part):
    """The part of the catalogue that worker processes speak to."""

    def heartbeat_worker(self, worker_id: str, now: datetime | None = None) -> None:
        """Say that a worker lives.

        Args:
            worker_id: At most 128 characters.
            now: UTC; the time that leases are measured in if not given.

        Raises:
            UsageError: The id cannot be stored.
        """
        check_text("worker id", worker_id, 128)
        with self._database.write() as session:
            session.merge(WorkerRow(worker_id=worker_id, heartbeat_at=self._database.lease_time(session, now)))

    def dead_workers(self, now: datetime | None = None, silent_seconds: float = 60.0) -> tuple[str, ...]:
        """The workers that were not heard of for so long, the longest silent first.

        None right after the database was away, when nobody could be heard. A heartbeat from the future was sent
        before the clock was put back; it counts as one of now.
        """
        if self._database.had_outage(silent_seconds / 2):
            return ()
        silent = timedelta(seconds=silent_seconds)
        with self._database.read() as session:
            at = self._database.lease_time(session, now)
            is_odd = or_(WorkerRow.heartbeat_at <= at - silent, WorkerRow.heartbeat_at > at + silent)
            query = select(WorkerRow.worker_id, WorkerRow.heartbeat_at).where(is_odd)
            found = session.execute(query.order_by(WorkerRow.heartbeat_at, WorkerRow.worker_id)).all()
        for worker_id, heard in found:
            if heard > at:
                self.heartbeat_worker(worker_id, at)
        return tuple(worker_id for worker_id, heard in found if heard <= at)

    def forget_worker(self, worker_id: str) -> None:
        """Remove a worker that ended, or whose death was seen to."""
        with self._database.write() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.worker_id == worker_id))
