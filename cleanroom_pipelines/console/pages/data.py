"""The data that a participant provides to a room: choosing files, confirming their content, validation, history.

Lives here: the steps from a chosen file to provisioned data, taking it back, and sample files.
Add here when a room accepts another dataset or kind of id.
Keep out: reading files (`uploads`), permissions and provisioning (`server.media`).

Between the steps a file is only in the vault; the pages carry its id. Files that are not confirmed are deleted.
"""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cleanroom_pipelines.console.forms import FormFile
from cleanroom_pipelines.console.page import PageRequest, Route, Tab
from cleanroom_pipelines.console.rendering import PRIVATE, url
from cleanroom_pipelines.identity import BASE_DATASETS, Dataset, InputName
from cleanroom_pipelines.media.errors import InvalidRequestError, MediaError, NotFoundError
from cleanroom_pipelines.media.protocol import Method, status_of
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines.terms import MatchingId, Permission
from cleanroom_pipelines.uploads.guessing import SEPARATORS, table_chunks
from cleanroom_pipelines.uploads.report import MESSAGES, Errors, RecordedError, ValidationReport, report_sentence

_DATA = "/rooms/{room_id}/data"
_CONFIRM = f"{_DATA}/confirm"
_LAB = f"{_DATA}/checks/{{lab_id}}"
_SIDES = {"base": BASE_DATASETS, "seeds": (Dataset.SEED_AUDIENCES,)}
_TAKE_BACK = {"base": Method.DEPROVISION_BASE, "seeds": Method.DEPROVISION_SEEDS}
_ACTIONS = (
    Method.PROVISION_BASE,
    Method.DEPROVISION_BASE,
    Method.PROVISION_SEEDS,
    Method.DEPROVISION_SEEDS,
)
_SEPARATOR_NAMES = dict(zip(("comma", "semicolon", "tab", "bar"), SEPARATORS, strict=True))
_MOST_ROWS_SHOWN = 5
_MOST_HISTORY = 2_000  # entries of the room's log that the history is read from


@dataclass(frozen=True)
class Slot:
    """A field of the upload form, for one file.

    Args:
        side: "base" or "seeds".
        dataset: The dataset that its file holds.
        number: Counts the fields of a dataset with matching ids, one for each kind of ids.
    """

    side: str
    dataset: Dataset
    number: int = 1

    @property
    def name(self) -> str:
        """The name of the form's field."""
        return f"{self.dataset.key}-{self.number}" if self.dataset.has_ids else self.dataset.key

    @property
    def is_required(self) -> bool:
        """Whether this file must be chosen before any data can be provided."""
        return self.dataset.has_ids and self.number == 1


def data(page: PageRequest) -> Reply:
    """Show the state of the data of the user's side, and the form to upload files."""
    return _show(page, {})


def receive(page: PageRequest) -> Reply:
    """Store the chosen files encrypted, and ask the user to confirm their content."""
    room, side = page.room(), _side(page.form.text("side"))
    chosen = {slot: file for slot in _slots(room, side) if (file := _chosen(page, slot)) is not None}
    missing = [slot for slot in _slots(room, side) if slot.is_required and slot not in chosen]
    problems = {slot.name: str(page.rendering.text("data.choose")) for slot in missing}
    if problems:
        return _show(page, problems)
    stored: dict[str, str] = {}
    status = 400
    for slot, file in chosen.items():
        try:
            stored[slot.name] = _store(page, slot, file)
        except MediaError as error:
            problems[slot.name] = _words(error)
            status = max(status, status_of(error))
    if problems:
        for upload_id in stored.values():
            page.call(Method.DELETE_UPLOAD, manifest_hash=upload_id)
        return _show(page, problems, status)
    return Reply(303, {**PRIVATE, "Location": url(_CONFIRM, stored, room_id=room["id"])})


def confirm(page: PageRequest) -> Reply:
    """Show what the stored files seem to contain, for the user to confirm or correct."""
    return _show_confirm(page, _found(page, page.query), {})


def take(page: PageRequest) -> Reply:
    """Accept the files that the user confirmed: provision customer lists, or validate a base audience."""
    room = page.room()
    found = _found(page, {name: page.form.text(name) for name in _names(page)})
    problems = {**_problems_of_kinds(page, found)}
    for slot, guess in found.items():
        try:
            found[slot] = _as_chosen(page, slot, guess)
        except MediaError as error:
            problems[f"{slot.name}-separator"] = _words(error)
    if problems:
        return _show_confirm(page, found, problems)
    if {slot.side for slot in found} == {"seeds"}:
        datasets = [
            {"manifest_hash": guess["manifest_hash"], "matching_id": _kind(page, slot)}
            for slot, guess in found.items()
        ]
        page.call(Method.PROVISION_SEEDS, room_id=room["id"], datasets=datasets)
        return page.redirect(_DATA, room_id=room["id"], done="data.provided.done")
    lab = page.call(
        Method.CREATE_LAB,
        name=room["name"],
        datasets={_input(page, slot): guess["manifest_hash"] for slot, guess in found.items()},
        n_embeddings=next(
            (len(each["columns"]) - 2 for slot, each in found.items() if slot.dataset is Dataset.EMBEDDINGS), 0
        ),
        activation=room["activation"],
    )
    return page.redirect(_LAB, room_id=room["id"], lab_id=lab["id"])


def discard(page: PageRequest) -> Reply:
    """Delete files that the user does not confirm."""
    for name in _names(page):
        if upload_id := page.form.text(name):
            page.call(Method.DELETE_UPLOAD, manifest_hash=upload_id)
    return page.redirect(_DATA, room_id=page.room()["id"], done="data.discarded.done")


def lab(page: PageRequest) -> Reply:
    """Show the validation of a base audience, and its reports."""
    found = page.call(Method.GET_LAB, lab_id=page.path["lab_id"])
    return page.show("data/lab.html", room=page.room(), lab=found, reports=_shown(found["reports"] or {}))


def provision_lab(page: PageRequest) -> Reply:
    """Provision a validated base audience to the room."""
    room = page.room()
    page.call(Method.PROVISION_BASE, room_id=room["id"], lab_id=page.path["lab_id"])
    return page.redirect(_DATA, room_id=room["id"], done="data.provided.done")


def delete_lab(page: PageRequest) -> Reply:
    """Delete a validation and its files; provisioned data stays."""
    page.call(Method.DELETE_LAB, lab_id=page.path["lab_id"])
    return page.redirect(_DATA, room_id=page.room()["id"], done="data.deleted.done")


def lab_rows(page: PageRequest) -> Reply:
    """Send, as CSV, the numbers of the rows with errors in a validated base audience."""
    found = page.call(Method.GET_LAB, lab_id=page.path["lab_id"])
    return page.attach("rows.csv", _rows_csv(found["reports"] or {}))


def side_rows(page: PageRequest) -> Reply:
    """Send, as CSV, the numbers of the rows with errors in one side's data."""
    sides = page.call(Method.GET_ROOM_DATA, room_id=page.room()["id"])["sides"]
    if page.path["side"] not in sides:
        raise _missing()
    return page.attach("rows.csv", _rows_csv(sides[page.path["side"]]["reports"]))


def sample(page: PageRequest) -> Reply:
    """Send a sample file of a dataset."""
    page.room()  # only its participants know that the page exists
    try:
        name = InputName.parse(page.path["name"])
    except ValueError:
        raise _missing() from None
    return page.attach(f"sample-{name.dataset.key}.csv", _csv(sample_rows(name)))


def history(page: PageRequest) -> Reply:
    """Show when the user's participant provided data to the room or removed data from it."""
    room = page.room()
    entries = page.call(Method.GET_AUDIT_LOG, room_id=room["id"], limit=_MOST_HISTORY)["entries"]
    mine = [each for each in entries if each["participant"] == room["mine"]["id"] and each["action"] in _ACTIONS]
    return page.show("data/history.html", room=room, entries=mine)


def ask_take_back(page: PageRequest) -> Reply:
    """Ask for confirmation before data is removed from the room."""
    side = _side(page.path["side"])
    if side not in page.call(Method.GET_ROOM_DATA, room_id=page.room()["id"])["sides"]:
        raise _missing()
    return page.show("data/take_back.html", room=page.room(), side=side)


def take_back(page: PageRequest) -> Reply:
    """Remove a side's data from the room."""
    room, side = page.room(), _side(page.path["side"])
    page.call(_TAKE_BACK[side], room_id=room["id"])
    return page.redirect(_DATA, room_id=room["id"], done="data.taken_back.done")


# --- Files ---


def _slots(room: Mapping[str, Any], side: str) -> list[Slot]:
    n_kinds = len(room["matching_ids"])
    return [
        Slot(side, dataset, number + 1)
        for dataset in _SIDES[side]
        for number in range(n_kinds if dataset.has_ids else 1)
    ]


def _names(page: PageRequest) -> list[str]:
    return [slot.name for side in _SIDES for slot in _slots(page.room(), side)]


def _side(text: str) -> str:
    if text not in _SIDES:
        raise _missing()
    return text


def _chosen(page: PageRequest, slot: Slot) -> FormFile | None:
    """Return the file in a field, possibly an empty file; None if the user chose no file."""
    return next((file for name, file in page.form.files if name == slot.name and file.name), None)


def _store(page: PageRequest, slot: Slot, file: FormFile) -> str:
    """Store a file, and return its id if its content fits the dataset; delete it otherwise."""
    upload_id: str = page.service.upload(
        page.email, table_chunks(file.stream), file.name, request_id=page.request.id
    )["manifest_hash"]
    try:
        _guess(page, slot, upload_id)
    except MediaError:
        page.call(Method.DELETE_UPLOAD, manifest_hash=upload_id)
        raise
    return upload_id


def _guess(page: PageRequest, slot: Slot, upload_id: str) -> dict[str, Any]:
    found: dict[str, Any] = page.call(
        Method.GET_UPLOAD, room_id=page.room()["id"], dataset=slot.dataset.key, manifest_hash=upload_id
    )
    return found


def _found(page: PageRequest, ids: Mapping[str, str]) -> dict[Slot, dict[str, Any]]:
    """Return, by field, what the stored files of one side seem to contain."""
    for side in _SIDES:
        slots = [slot for slot in _slots(page.room(), side) if ids.get(slot.name)]
        if slots:
            return {slot: _guess(page, slot, ids[slot.name]) for slot in slots}
    raise InvalidRequestError("No file was chosen.", remedy="Choose the files again.")


def _as_chosen(page: PageRequest, slot: Slot, guess: dict[str, Any]) -> dict[str, Any]:
    """Return the guess about a file; convert the file first if the user corrected its separator or header."""
    if guess["format"] != "csv":
        return guess
    separator = _SEPARATOR_NAMES.get(page.form.text(f"{slot.name}-separator"), guess["separator"])
    header = page.form.text(f"{slot.name}-header") == "yes" and not guess["header"]
    if separator == guess["separator"] and not header:
        return guess
    converted: dict[str, Any] = page.call(
        Method.CONVERT_UPLOAD,
        room_id=page.room()["id"],
        dataset=slot.dataset.key,
        manifest_hash=guess["manifest_hash"],
        separator=separator,
        header=header,
    )
    return converted


def _kind(page: PageRequest, slot: Slot) -> str:
    return page.form.text(f"{slot.name}-kind")


def _input(page: PageRequest, slot: Slot) -> str:
    return str(InputName(slot.dataset, MatchingId(_kind(page, slot)) if slot.dataset.has_ids else None))


def _problems_of_kinds(page: PageRequest, found: Mapping[Slot, Any]) -> dict[str, str]:
    seen: set[str] = set()
    problems = {}
    for slot in found:
        if not slot.dataset.has_ids:
            continue
        kind = _kind(page, slot)
        if kind not in page.room()["matching_ids"]:
            problems[f"{slot.name}-kind"] = str(page.rendering.text("data.choose_kind"))
        elif kind in seen:
            problems[f"{slot.name}-kind"] = str(page.rendering.text("data.same_kind"))
        seen.add(kind)
    return problems


# --- Pages ---


def _show(page: PageRequest, problems: Mapping[str, str], status: int | None = None) -> Reply:
    room = page.room()
    state = page.call(Method.GET_ROOM_DATA, room_id=room["id"])
    sides = [
        {
            "key": side,
            "provided": found["provided"],
            "slots": _slots(room, side),
            "reports": _shown(found["reports"]),
            "has_problems": any(slot.name in problems for slot in _slots(room, side)),
        }
        for side, found in state["sides"].items()
    ]
    labs = page.call(Method.LIST_LABS)["labs"] if "base" in state["sides"] else []
    return page.show(
        "data/data.html",
        status=status,
        room=room,
        work=state["work"],
        has_data=state["has_data"],
        sides=sides,
        labs=labs,
        problems=problems,
        tones={"ACTIVE": "good", "CREATE_FAILED": "bad"},
    )


def _show_confirm(
    page: PageRequest, found: Mapping[Slot, Mapping[str, Any]], problems: Mapping[str, str]
) -> Reply:
    names = {separator: name for name, separator in _SEPARATOR_NAMES.items()}
    files = [
        {"slot": slot, "guess": guess, "separator": names.get(guess["separator"])} for slot, guess in found.items()
    ]
    return page.show(
        "data/confirm.html",
        room=page.room(),
        files=files,
        side=next(iter(found)).side,
        problems=problems,
        separators=list(_SEPARATOR_NAMES),
    )


# --- Reports ---


def _shown(reports: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return reports as the template shows them: a sentence, and the errors by column and reason."""
    read = {name: ValidationReport.from_dict(each) for name, each in reports.items()}
    return [
        {
            "dataset": "seed_audiences" if name == "seeds" else name,
            "passed": report.passed,
            "sentence": report_sentence(report),
            "errors": list(_grouped(report)),
        }
        for name, report in read.items()
    ]


def _grouped(report: ValidationReport) -> Iterator[dict[str, Any]]:
    for errors in _parts(report):
        for code, column in sorted({(each.code, each.column or "") for each in errors.recorded}):
            found = [each for each in errors.recorded if (each.code, each.column or "") == (code, column)]
            rows = [each.row for each in found if each.row is not None]
            yield {
                "column": column,
                "code": code.value,
                "words": MESSAGES.get(code, found[0].message),
                "n": len(found),
                "is_all": errors.n_errors == len(errors.recorded),
                "rows": rows[:_MOST_ROWS_SHOWN],
                "more": len(rows) > _MOST_ROWS_SHOWN,
            }


def _parts(report: ValidationReport) -> list[Errors]:
    return [*report.columns, report.schema, report.table, report.uniqueness]


def _rows_csv(reports: Mapping[str, Any]) -> Iterator[str]:
    rows: list[tuple[object, ...]] = [("dataset", "row", "column", "code", "meaning")]
    for name, each in reports.items():
        report = ValidationReport.from_dict(each)
        recorded = [error for part in _parts(report) for error in part.recorded]
        rows += [
            (name, error.row or "", error.column or "", error.code.value, error.message)
            for error in sorted(recorded, key=_place)
        ]
    yield from _csv(rows)


def _place(error: RecordedError) -> tuple[int, str, str]:
    return error.row or 0, error.column or "", error.code.value


def _csv(rows: list[tuple[object, ...]]) -> Iterator[str]:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    yield out.getvalue()


def _words(error: MediaError) -> str:
    return f"{error.message} {error.remedy}".strip()


def _missing() -> NotFoundError:
    return NotFoundError("This page does not exist.", remedy="Go to your data rooms.")


PAGES = (
    Route("GET", _DATA, data),
    Route("POST", _DATA, receive, files=True),
    Route("GET", _CONFIRM, confirm),
    Route("POST", _CONFIRM, take),
    Route("POST", f"{_DATA}/discard", discard),
    Route("GET", f"{_DATA}/history", history),
    Route("GET", f"{_DATA}/samples/{{name}}", sample),
    Route("GET", f"{_DATA}/rows/{{side}}", side_rows),
    Route("GET", f"{_DATA}/take-back/{{side}}", ask_take_back),
    Route("POST", f"{_DATA}/take-back/{{side}}", take_back),
    Route("GET", _LAB, lab),
    Route("GET", f"{_LAB}/rows", lab_rows),
    Route("POST", f"{_LAB}/provision", provision_lab),
    Route("POST", f"{_LAB}/delete", delete_lab),
)
TAB = Tab("data", _DATA, (Permission.PROVIDE_BASE_AUDIENCE, Permission.PROVIDE_SEED_AUDIENCE))


Rows = list[tuple[object, ...]]
_EMAILS = ("ada@example.com", "grace@example.com", "alan@example.com")
_PHONES = ("+12025550123", "+442079460018", "+493012345678")
_USERS = ("user-1", "user-2", "user-3")
_IDS = {
    MatchingId.STRING: ("id", ("customer-1", "customer-2", "customer-3")),
    MatchingId.EMAIL: ("email", _EMAILS),
    MatchingId.HASHED_EMAIL: (
        "hashed_email",
        tuple(hashlib.sha256(each.encode()).hexdigest() for each in _EMAILS),
    ),
    MatchingId.PHONE_NUMBER: ("phone", _PHONES),
    MatchingId.HASHED_PHONE_NUMBER: (
        "hashed_phone",
        tuple(hashlib.sha256(each.encode()).hexdigest() for each in _PHONES),
    ),
}
_OTHERS: dict[Dataset, Rows] = {
    Dataset.SEGMENTS: [("user_id", "segment"), ("user-1", "cycling"), ("user-1", "travel"), ("user-2", "cooking")],
    Dataset.DEMOGRAPHICS: [
        ("user_id", "age", "gender"),
        ("user-1", "18-24", "f"),
        ("user-2", "25-34", "m"),
        ("user-3", "65+", ""),
    ],
    Dataset.EMBEDDINGS: [
        ("user_id", "scope", "e0", "e1", "e2"),
        ("user-1", "site", 0.12, -0.5, 0.33),
        ("user-2", "site", 0.02, 0.41, -0.7),
    ],
}


def sample_rows(name: InputName) -> Rows:
    """Return the rows of a sample file; the first row has the column names."""
    if name.matching_id is None:
        return _OTHERS[name.dataset]
    column, ids = _IDS[name.matching_id]
    if name.dataset is Dataset.SEED_AUDIENCES:
        return [(column, "audience_type"), *((each, "customers") for each in ids)]
    return [("user_id", column), *zip(_USERS, ids, strict=True)]
