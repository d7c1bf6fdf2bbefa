"""The server side of the data-room (Media) API: executes a user's calls and audits them.

Lives here: the dispatch of calls, auditing, uploads and downloads, and the transport within one process.
Add here when the protocol gets another method.
Keep out: HTTP (`server`), what calls do (the neighbouring modules) and the client, which must stay light.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from cleanroom_pipelines.media import errors
from cleanroom_pipelines.media.protocol import Method, as_media_error, status_of
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.server.media import (
    audience_states,
    audiences,
    budgets,
    files,
    jobs,
    rooms,
)
from cleanroom_pipelines.server.media.access import Call
from cleanroom_pipelines.storage.vault import chunks_of
from cleanroom_pipelines.ways_in import REQUEST, acting_for

_CALLS: Mapping[Method, Callable[[Call], Any]] = {
    Method.WHOAMI: rooms.whoami,
    Method.CREATE_ROOM: rooms.create_room,
    Method.GET_ROOM: rooms.get_room,
    Method.LIST_ROOMS: rooms.list_rooms,
    Method.CREATE_LAB: rooms.create_lab,
    Method.GET_LAB: rooms.get_lab,
    Method.LIST_LABS: rooms.list_labs,
    Method.START_LAB: jobs.start_lab,
    Method.DELETE_LAB: rooms.delete_lab,
    Method.PROVISION_BASE: rooms.provision_base,
    Method.DEPROVISION_BASE: rooms.deprovision_base,
    Method.PROVISION_SEEDS: rooms.provision_seeds,
    Method.DEPROVISION_SEEDS: rooms.deprovision_seeds,
    Method.GET_PROVISIONING: rooms.get_provisioning,
    Method.GET_ROOM_DATA: files.get_room_data,
    Method.GET_UPLOAD: files.get_upload,
    Method.CONVERT_UPLOAD: files.convert_upload,
    Method.DELETE_UPLOAD: files.delete_upload,
    Method.CREATE_AUDIENCE: audiences.create_audience,
    Method.LIST_AUDIENCES: audience_states.list_audiences,
    Method.GET_AUDIENCE: audience_states.get_audience,
    Method.GET_DRAFT: audience_states.get_draft,
    Method.REFRESH_AUDIENCE: audience_states.refresh_audience,
    Method.SHARE_AUDIENCES: audiences.share_audiences,
    Method.DELETE_AUDIENCES: audiences.delete_audiences,
    Method.START_JOB: jobs.start_job,
    Method.GET_JOB: jobs.get_job,
    Method.GET_JOB_PRICE: jobs.get_job_price,
    Method.GET_JOB_RESULT: jobs.get_job_result,
    Method.LIST_JOBS: jobs.list_jobs,
    Method.CANCEL_JOB: jobs.cancel_job,
    Method.GET_AUDIT_LOG: rooms.get_audit_log,
    Method.GET_ESTIMATE: budgets.estimate,
    Method.RENEW_BASE_FIGURES: budgets.renew_base_figures,
    Method.GET_LEDGER: budgets.get_ledger,
    Method.LIST_PROPOSALS: budgets.list_proposals,
    Method.PROPOSE: budgets.propose,
    Method.APPROVE: budgets.approve,
    Method.REJECT: budgets.reject,
    Method.DECLINE_ROOM: rooms.decline_room,
    Method.ADD_USER: rooms.add_user,
    Method.REMOVE_USER: rooms.remove_user,
    Method.GET_MEMBERS: rooms.get_members,
    Method.INVITE_USER: rooms.invite_user,
}


@dataclass(frozen=True)
class MediaService:
    """Executes calls of the data-room (Media) API on an installation.

    Args:
        installation: The installation.
        way: The entry point that audit entries name.
        on_rejection: Called after each audit entry of a rejected or failed call.
    """

    installation: Installation
    way: str = "media"
    on_rejection: Callable[[], None] = lambda: None

    def call(self, email: str, method: str, params: Mapping[str, Any], request_id: str | None = None) -> Any:
        """Execute a call and write its audit entry.

        Args:
            email: E-mail address of the caller.
            method: A method of the protocol.
            params: The call's parameters.
            request_id: Id of the request, for the audit log.

        Raises:
            MediaError: The call was rejected or failed.
        """
        try:
            known = Method(method)
        except ValueError:
            error = errors.NotFoundError(
                "Unknown method.", remedy="Give a value of `Method` in cleanroom_pipelines.media.protocol."
            )
            self.audit_rejection("unknown", error, request_id, email)
            raise error from None
        call = Call(self.installation, email, params, {"operation": known.value, "request_id": request_id})
        # a result is paid for, so its audit entry must be written before the result is returned
        with self._audited(call, only_reads=known.only_reads and known is not Method.GET_JOB_RESULT):
            return _CALLS[known](call)

    def perform(
        self,
        email: str,
        operation: str,
        do: Callable[[Call], Any],
        params: Mapping[str, Any],
        request_id: str,
        *,
        only_reads: bool,
    ) -> Any:
        """Execute an action that the wire protocol lacks, such as an operator's, and write its audit entry.

        Raises:
            MediaError: It was rejected or failed.
        """
        call = Call(self.installation, email, params, {"operation": operation, "request_id": request_id})
        with self._audited(call, only_reads=only_reads):
            return do(call)

    def upload(
        self,
        email: str,
        chunks: Iterable[bytes],
        name: str,
        matching_id: str | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Store an uploaded file, encrypted.

        Raises:
            UploadTooLargeError: The file exceeds the installation's upload limit.
            QuotaExceededError: The user has too many files that are not in a data room yet.
        """
        call = Call(self.installation, email, {}, {"operation": "upload", "request_id": request_id})
        with self._audited(call, only_reads=False):
            files.check_uploads(call)
            return files.store_upload(call, chunks, name, matching_id)

    def admit_upload(self, email: str, request_id: str | None = None) -> None:
        """Reject an upload before its body is read, if the user has too many files.

        Raises:
            QuotaExceededError: The user has too many files that are not in a data room yet.
        """
        call = Call(self.installation, email, {}, {"operation": "upload", "request_id": request_id})
        try:
            files.check_uploads(call)
        except errors.QuotaExceededError as error:
            self._write(call, error)
            raise

    @contextmanager
    def opening(self, email: str, job_id: str, name: str, request_id: str | None = None) -> Iterator[Path]:
        """Open a job's file for the duration of the `with` block, after writing the audit entry.

        Raises:
            MediaError: The user has no such file.
        """
        call = Call(self.installation, email, {}, {"operation": "download", "request_id": request_id})
        with ExitStack() as stack:
            with self._audited(call, only_reads=False):
                path = stack.enter_context(jobs.open_file(call, job_id, name))
            yield path

    def audit_rejection(
        self, operation: str, error: Exception, request_id: str | None = None, email: str = ""
    ) -> None:
        """Audit a request that was rejected before execution; entries of throttled requests are batched."""
        call = Call(self.installation, email, {}, {"operation": operation, "request_id": request_id})
        self._write(call, error, soon=isinstance(error, errors.TooManyRequestsError))

    def audit_success(self, operation: str, request_id: str, email: str) -> None:
        """Audit a successful request that `call` does not execute, such as signing in."""
        self._write(Call(self.installation, email, {}, {"operation": operation, "request_id": request_id}), None)

    @contextmanager
    def _audited(self, call: Call, *, only_reads: bool) -> Iterator[None]:
        try:
            with acting_for(REQUEST):
                yield
        except Exception as raised:
            error = as_media_error(raised)
            self._write(call, error)
            raise error from None
        self._write(call, None, soon=only_reads)

    def _write(self, call: Call, error: Exception | None, *, soon: bool = False) -> None:
        entry: dict[str, Any] = {"way": self.way, **{k: v for k, v in call.trail.items() if v is not None}}
        if call.email:
            entry["user"] = self.installation.audit_name(call.email)
        entry["outcome"] = "ok" if error is None else "refused" if status_of(error) < 500 else "failed"
        if error is not None:
            entry["error"] = type(as_media_error(error)).__name__
        (self.installation.audit.write_soon if soon else self.installation.audit.write)(entry)
        if error is not None:
            self.on_rejection()


class LocalTransport:
    """Transport within the operator's own process: the same handlers, without HTTP.

    Args:
        service: The service that executes the calls.
        email: E-mail address to act as.
    """

    def __init__(self, service: MediaService, email: str) -> None:
        self._service = service
        self._email = email

    def call(self, method: str, params: dict[str, Any]) -> Any:
        """Call a method of the protocol and return its result."""
        return self._service.call(self._email, method, params)

    def upload(self, source: Path | BinaryIO, name: str) -> dict[str, Any]:
        """Upload a file."""
        if isinstance(source, Path):
            with source.open("rb") as stream:
                return self._service.upload(self._email, chunks_of(stream), name)
        source.seek(0)
        return self._service.upload(self._email, chunks_of(source), name)

    def download(self, job_id: str, name: str) -> Iterator[bytes]:
        """Yield a job's file in chunks of bytes."""
        with self._service.opening(self._email, job_id, name) as path, path.open("rb") as stream:
            yield from chunks_of(stream)

    def close(self) -> None:
        """Write the audit entries that are still queued."""
        self._service.installation.audit.close()


def open_local(home: str, user_email: str) -> LocalTransport:
    """Open an installation for a client in the operator's own process.

    Args:
        home: The installation's folder; the other settings come from the environment.
        user_email: E-mail address to act as.
    """
    settings = Settings.from_environment()
    installation = Installation(replace(settings, home=Path(home).expanduser().resolve()))
    return LocalTransport(MediaService(installation), user_email.lower())
