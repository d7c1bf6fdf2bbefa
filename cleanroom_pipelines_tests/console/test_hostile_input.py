"""Scripts, formulas, paths, headers and broken forms as input of pages, against a real `cleanroom serve`.

Contract: no name, cell, query or field becomes markup, a header, a path or a formula; a form that is not whole,
too large or of the wrong kind stores nothing; fields that a form does not have change nothing; each rejection is
in the audit log; what is private is not cached.
"""

import csv
import io
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from cleanroom_pipelines.console.app import Console, FormUpload
from cleanroom_pipelines.console.forms import FormReader
from cleanroom_pipelines.console.page import Route
from cleanroom_pipelines.console.pages import ROUTES
from cleanroom_pipelines.media.errors import InvalidRequestError, UploadTooLargeError
from cleanroom_pipelines.runs.sign_in import end_session, start_session
from cleanroom_pipelines.server.requests import Request
from cleanroom_pipelines_tests.media.groups import email
from cleanroom_pipelines_tests.server.attacking import files_in_scratch, speak
from cleanroom_pipelines_tests.server.server import Room, serving

from ..uploads.workbooks import archive, workbook
from .attacked import NAMES, OPERATOR, OWN, PRIVATE, Target, fill, name_of, rightful

HOSTILE = "\"'><svg onload=a planted>{{7*191}}<script>1</script>"  # names have at most 63 characters
GETS = tuple(each for each in ROUTES if each.method == "GET")
POSTS = tuple(each for each in PRIVATE if each.method == "POST")
# forms without fields, which end what the other attacks need
ENDING = ("/delete", "/leave", "/take-back/{side}", "/sign-out-everywhere")
QUERIES = ("done", "next", "page", "email", "region", "draft", "from", "mine", "views", "seed_audiences-1")
CRLF = "x\r\nSet-Cookie: planted=1\r\n\r\n<planted>"
BOUNDARY = "planted"


class _Markup(HTMLParser):
    """Collects what a browser would take for markup."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("planted", "style") or name.startswith("on"):
                self.found.append(f"{tag} {name}")
            if name in ("href", "src", "action", "hx-get") and not (value or "").startswith(
                ("/console", "#", "?")
            ):
                self.found.append(f"{tag} {name}={value}")
        if tag == "script" and "src" not in dict(attrs):
            self.found.append(tag)


def assert_harmless(answer: httpx.Response) -> None:
    assert "set-cookie" not in answer.headers or "planted" not in answer.headers["set-cookie"]
    assert not [name for name in answer.headers if "planted" in name]
    assert "1337" not in answer.text, "a template was evaluated"
    if answer.headers.get("content-type", "").startswith("text/html"):
        assert _Markup(answer.text).found == []
    if "location" in answer.headers:
        assert answer.headers["location"].startswith("/console")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    home = tmp_path_factory.mktemp("hostile") / "home"
    room = Room.open(home)
    settings = {"CLEANROOM_REQUESTS_PER_SECOND": "1000000"}
    with serving(home, "--no-worker", environment=settings) as server:
        target = fill(room, server.url, name=HOSTILE)
        for who in NAMES:
            target.browser(who)
        yield target


# scripts


@pytest.mark.parametrize("route", GETS, ids=name_of)
def test_no_stored_name_becomes_markup(target: Target, route: Route) -> None:
    answer = target.send(rightful(route), route)
    assert answer.status_code in (200, 303, 400, 401, 404, 409)
    assert_harmless(answer)


@pytest.mark.parametrize("route", GETS, ids=name_of)
def test_no_query_becomes_markup_or_a_header(target: Target, route: Route) -> None:
    for text in (HOSTILE, CRLF):
        assert_harmless(target.send(rightful(route), route, params=dict.fromkeys(QUERIES, text)))


@pytest.mark.parametrize("route", [each for each in POSTS if not each.path.endswith(ENDING)], ids=name_of)
def test_no_field_becomes_markup_or_a_header(target: Target, route: Route) -> None:
    for text in (HOSTILE, CRLF):
        hostile = dict.fromkeys(target.form(route), text) | {"price": "nan", "priced": "inf", "once": text}
        assert_harmless(target.send(rightful(route), route, data=hostile))


def test_no_part_of_a_path_becomes_markup_or_a_header(target: Target) -> None:
    for route in ROUTES:
        if "{" in route.path:
            for text in (HOSTILE, CRLF):
                hostile = Target(
                    target.aws, target.world, target.strangers, target.url, dict.fromkeys(target.ids, text)
                )
                hostile.browsers = target.browsers
                answer = (
                    hostile.send(rightful(route), route, data={})
                    if route.method == "POST"
                    else hostile.send(rightful(route), route)
                )
                assert answer.status_code >= 400, name_of(route)
                assert_harmless(answer)


def test_cells_of_files_are_shown_as_text(target: Target) -> None:
    page = send_file(
        target, "seed", ("x.csv", f'email,audience_type\na@b.example,"{HOSTILE.replace(chr(34), "")}"\n')
    )
    shown = target.browser("seed").get(page.headers["location"])
    assert_harmless(shown)
    header = send_file(target, "seed", (f"{HOSTILE}.csv", f"{HOSTILE},audience_type\na@b.example,x\n"))
    assert_harmless(
        header if header.status_code == 400 else target.browser("seed").get(header.headers["location"])
    )


# uploads


def send_file(target: Target, who: str, file: tuple[str, str | bytes]) -> httpx.Response:
    address = f"/console/rooms/{target.world.room}/data"
    side = {"side": "base" if who == "base" else "seeds"}
    name = "matching-1" if who == "base" else "seed_audiences-1"
    return target.browser(who).post(address, data=side, files={name: file})


WRONG_FILES: dict[str, tuple[str, bytes]] = {
    "an archive": ("customers.csv", archive()),
    "a bomb of an archive": ("customers.zip", archive("bomb.csv", "a," * 2_000_000)),
    "a workbook that unpacks to more": ("customers.xlsx", workbook([["a" * 20_000] * 40] * 40, claims=1 << 40)),
    "a workbook without a sheet": ("customers.xlsx", workbook(sheets="")),
    "a workbook with an entity": (
        "customers.xlsx",
        workbook(cells='<row><c t="inlineStr"><is><t>&planted;</t></is></c></row>'),
    ),
    "a script": ("customers.csv.exe", b"MZ\x90\x00" * 100),
    "a page": ("customers.html", b"<html><script>alert(1)</script></html>"),
    "a picture and a page": ("customers.csv.gif", b"GIF89a\x00\x00<script>alert(1)</script>"),
    "a document": ("customers.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    "broken Parquet": ("customers.parquet", b"PAR1" + b"\x00" * 64 + b"PAR1"),
    "zeros": ("customers.csv", bytes(10_000)),
    "one endless line": ("customers.csv", b"a" * 2_000_000),
    "a broken gzip": ("customers.csv.gz", b"\x1f\x8b\x08\x00" + b"\x00" * 40),
    "nothing": ("customers.csv", b""),
}


@pytest.mark.parametrize("file", WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_not_kept(target: Target, file: tuple[str, bytes]) -> None:
    before = target.before()
    target.assert_refused(send_file(target, "seed", file), "seed", before, 400, 413, names=True)
    assert files_in_scratch(target.world.installation.home) == []


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "C:\\x\\..\\key", "/etc/passwd", "..", "a\x00b.csv", "\u202ecsv.exe"]
)
def test_a_file_name_is_no_path(target: Target, name: str) -> None:
    answer = send_file(target, "seed", (name, "a@b.example,loyal\n"))
    assert answer.status_code in (303, 400)
    assert_harmless(answer)
    assert list(target.world.installation.home.root.parent.rglob("*passwd*")) == []


def part(name: str, content: str = "x", headers: str = "") -> str:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{headers}\r\n\r\n{content}\r\n'


END = f"--{BOUNDARY}--\r\n"
SIDE, FILE = part("side", "seeds"), part("seed_audiences-1", "a@b.example,x", '; filename="x.csv"')
BROKEN_FORMS: dict[str, tuple[str, str]] = {
    "cut before its end": (BOUNDARY, SIDE + FILE),
    "with another boundary": ("other", SIDE + FILE + END),
    "with an empty boundary": ("", SIDE + FILE + END),
    "with a long boundary": ("x" * 71, SIDE + FILE + END),
    "with a field without a name": (BOUNDARY, f"--{BOUNDARY}\r\nX: y\r\n\r\nx\r\n" + SIDE + FILE + END),
    "with a huge field": (BOUNDARY, part("side", "x" * 70_000) + FILE + END),
    "with many fields": (BOUNDARY, SIDE * 501 + FILE + END),
    "with many files": (BOUNDARY, SIDE + FILE * 9 + END),
    "with a huge header": (BOUNDARY, f"--{BOUNDARY}\r\nX: {'y' * 2_000_000}\r\n" + SIDE + FILE + END),
    "with a NUL": (BOUNDARY, part("side", "seeds\0") + FILE + END),
    "that is no form": (BOUNDARY, "PAR1" * 100),
    "that is empty": (BOUNDARY, ""),
}


@pytest.mark.parametrize(("boundary", "body"), BROKEN_FORMS.values(), ids=BROKEN_FORMS)
def test_a_broken_form_stores_nothing(target: Target, boundary: str, body: str) -> None:
    before = target.before()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    try:
        answer = target.browser("seed").post(
            f"/console/rooms/{target.world.room}/data", content=body.encode(), headers=kind
        )
    except httpx.TransportError:  # the server hung up on a form that is too large
        entries = [each for each in target.new_entries() if each["outcome"] == "refused"]
        assert entries and target.state() == before
        return
    target.assert_refused(answer, "seed", before, 400, 413, names=True)
    assert files_in_scratch(target.world.installation.home) == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param(part("x", "a" * 2_000, '; filename="x.csv"'), UploadTooLargeError, id="in its file"),
        pytest.param(SIDE + FILE + END + "x" * 2_000_000, InvalidRequestError, id="behind its end"),
        pytest.param("x" * 2_000_000, InvalidRequestError, id="before its beginning"),
    ],
)
def test_a_form_without_end_is_not_read_to_its_end(tmp_path: Path, body: str, error: type[Exception]) -> None:
    reader = FormReader(f"multipart/form-data; boundary={BOUNDARY}", tmp_path, 1_000)

    def read() -> None:
        for start in range(0, len(body), 10_000):
            reader.take(body[start : start + 10_000].encode())

    with pytest.raises(error):
        read()
    reader.form.close()


def test_files_are_received_only_where_a_form_has_them(target: Target) -> None:
    before = target.before()
    for route in POSTS:
        if not route.files:
            answer = target.send(rightful(route), route, data={}, files={"x": ("x.csv", b"x")})
            assert answer.status_code == 400, name_of(route)
    assert target.state() == before
    rejected = [each for each in target.new_entries() if each["outcome"] == "refused"]
    assert len(rejected) == len([each for each in POSTS if not each.files])


def test_an_upload_ends_with_its_session(target: Target) -> None:
    installation = target.world.installation
    console, secret = Console(installation), start_session(installation, email("seed"))
    headers = {**OWN, "Cookie": f"cleanroom={secret}", "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    path = f"/console/rooms/{target.world.room}/data"
    request = Request("an-id", "POST", path, "", [*headers.items()], is_private=True)
    upload = console.begin(request)
    assert isinstance(upload, FormUpload)
    assert upload.take((SIDE + FILE + END).encode()) is None
    end_session(installation, secret)
    before = target.before()
    reply = upload.finish()
    upload.discard()
    assert reply.status == 401
    assert target.state() == before
    assert [each["outcome"] for each in target.new_entries()] == ["refused"]


# paths, hosts and headers


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fkey",
        "%2e%2e",
        "..%5ckey",
        "%2fetc%2fpasswd",
        "part-00000.csv%00.txt",
        "list.json",
        "manifest.json",
        "part-00000.csv%0d%0aX-Planted:1",
        "PART-00000.CSV",
    ],
)
def test_only_the_files_of_a_list_are_downloaded(target: Target, name: str) -> None:
    for page in ("lists/{lists}", "audiences/deliveries/{lists}"):
        before = target.before()
        address = f"/console/rooms/{target.world.room}/{page.format(**target.ids)}/files/{name}"
        target.assert_refused(target.browser("seed").get(address), "seed", before, 403, 404, names=True)


def test_a_host_that_is_not_this_machine_sees_no_operators_pages(target: Target) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example"):
        before = target.before()
        cookie = f"cleanroom={target.browser(OPERATOR).cookies['cleanroom']}"
        headers = {"Host": host, "Cookie": cookie}
        answer = httpx.get(f"{target.url}/console/operator", headers=headers)
        target.assert_refused(answer, OPERATOR, before, 403)


def test_private_pages_are_not_cached_and_leave_no_origin_open(target: Target) -> None:
    for route in GETS:
        answer = target.send(rightful(route), route)
        headers = answer.headers
        assert headers["cache-control"] == "no-store", name_of(route)
        assert "access-control-allow-origin" not in headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


# formulas and names that look like others


def test_no_cell_of_a_download_is_a_formula(target: Target) -> None:
    for route in GETS:
        answer = target.send(rightful(route), route)
        if answer.status_code == 200 and "text/csv" in answer.headers["content-type"]:
            for row in csv.reader(io.StringIO(answer.text)):
                assert not [cell for cell in row if cell[:1] in ("=", "+", "@", "\t")], name_of(route)


@pytest.mark.parametrize("name", ["a\u202eb", "a\u200bb", "a\x00b", "a\x1bb", "\ud800", " ", ""], ids=repr)
def test_a_name_has_only_characters_that_show(target: Target, name: str) -> None:
    before = target.before()
    address = f"/console/rooms/{target.world.room}/audiences/new/rule_based"
    body = "do=create&source=base&priced=1000&name=" + "".join(
        f"%{byte:02X}" for byte in name.encode(errors="surrogatepass")
    )
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = target.browser("seed").post(address, content=body, headers=kind)
    target.assert_refused(answer, "seed", before, 400, 413, names=True)


# fields that a form does not have


def test_fields_that_a_form_does_not_have_change_nothing(target: Target) -> None:
    world, room = target.world, f"/console/rooms/{target.world.room}"
    more = {
        "is_operator": "on",
        "account": target.ids["account_id"],
        "role": "operator",
        "disabled": "no",
        "participant_id": world.ids["base"],
        "room_id": target.strangers,
        "owner_email": email("seed"),
        "delivered_to": world.ids["base"],
        "created_by": world.ids["base"],
        "tenths": "10000",
        "approved_by": "base",
        "organization": "base",
        "shared_with": world.ids["agency"],
        "hidden": "on",
        "delta_from": target.ids["lists"],
        "data_room_id": target.strangers,
        "user": email("base"),
        "email_verified": "on",
    }
    browser = target.browser("seed")
    people = {"email": email("colleague"), "permissions": ["VIEW_OVERLAP"], **more}
    assert browser.post(f"{room}/people", data=people).status_code == 303
    colleague = world.installation.catalog.users.user(email("colleague"))
    assert colleague is not None and not colleague.is_operator and colleague.account_id is None
    found = world.call("owner", "get_room", room_id=world.room)
    assert found["owner_email"] == email("owner")
    assert [each["emails"] for each in found["participants"] if each["role"] == "base"] == [[email("base")]]
    made = {"do": "create", "source": "base", "priced": "1000", "name": "plain", **more}
    assert browser.post(f"{room}/audiences/new/rule_based", data=made).status_code == 303
    audience = next(
        each for each in world.installation.catalog.rooms.custom_audiences(world.room) if each.name == "plain"
    )
    assert (audience.created_by, audience.shared_with) == (world.ids["seed"], ())
    before = world.budget.ledger.total
    assert browser.post(f"{room}/privacy", data={"kind": "refill", "units": "1", **more}).status_code == 303
    newest = world.installation.catalog.pairs.proposals(world.budget.pair.id)[-1]
    assert (newest.tenths, len(newest.approved_by), newest.effective_at) == (10, 1, None)
    assert world.budget.ledger.total == before


# what is not a page


def test_a_form_that_is_too_large_is_rejected_and_audited(target: Target) -> None:
    before = target.before()
    answer = target.browser("seed").post("/console/sign-out", content=b"x=" + b"y" * (65 << 10))
    target.assert_refused(answer, "", before, 413, names=True)


@pytest.mark.parametrize(
    "path",
    [
        "/console/../_cleanroom/health",
        "/console/static/../app.py",
        "/console//evil.example",
        "/console/static/%2e%2e/app.py",
        "/console/rooms/..%2f..%2fkey",
        "/console/\\evil",
        "/CONSOLE/operator",
        "/console/operator/",
    ],
)
def test_no_path_leads_past_the_routes(target: Target, path: str) -> None:
    host, cookie = target.url.removeprefix("http://"), target.browser("seed").cookies["cleanroom"]
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}", f"Cookie: cleanroom={cookie}", "Connection: close", "", "")
    answer = speak(target.url, "\r\n".join(lines).encode()).decode(errors="replace")
    status = int(answer.split(" ")[1])
    assert status in (400, 403, 404)
    assert "import logging" not in answer
