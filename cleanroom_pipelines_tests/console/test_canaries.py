"""No page or download of a full room shows an id of a person.

Contract: the room has the real results of both sides' uploads, whose ids and addresses are the canaries. No page
of either party that links lead to has one of them, neither of its own side nor of the other; the only exception is
the list that its receiver downloads. Rejected forms that carry canaries repeat them only in the field that they
were typed in, and no log and no audit entry has them.
"""

import html
import re
from collections.abc import Iterator

import httpx

from cleanroom_pipelines.runs.sign_in import start_session
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines_tests.runs.room_worlds import ADVERTISER, PUBLISHER, RoomWorld
from cleanroom_pipelines_tests.server.server import serving

from ..storage.auditing import lines_of

CANARIES = re.compile(r"user\d{5}|@mail\.example|stranger\d+@adv\.example")
BASE = {"kind": "rule_based", "source": {"kind": "base"}, "filters": None, "combinators": []}
REMARKETING = {"kind": "remarketing", "audience_type": "loyal"}


def crawl(browser: httpx.Client, start: str) -> Iterator[tuple[str, str]]:
    """Yield the address and the text of each page and download that links lead to."""
    todo, seen = [start], {start}
    while todo:
        address = todo.pop()
        answer = browser.get(address, follow_redirects=True)
        assert answer.status_code < 500, address
        yield address, answer.text
        for link in re.findall(r'(?:href|hx-get)="([^"#]+)"', answer.text):
            path = html.unescape(link)
            if path.startswith("/console") and "/static/" not in path and path not in seen:
                seen.add(path)
                todo.append(path)


def test_no_page_or_download_shows_a_person(data_room: RoomWorld) -> None:
    world, service = data_room, MediaService(data_room.installation)
    room = {"room_id": world.room.id}
    made = [
        service.call(
            ADVERTISER, "create_audience", {**room, "name": name, "definition": definition, "shared_with": []}
        )
        for name, definition in (("everyone", BASE), ("customers", REMARKETING))
    ]
    world.run()
    lists = [
        service.call(
            ADVERTISER,
            "start_job",
            {**room, "kind": "user_list", "audience": {"kind": "custom", "id": each["id"]}},
        )
        for each in made
    ]
    world.run()
    for job in lists:
        service.call(ADVERTISER, "get_job_result", {"job_id": job["id"]})
    home = world.installation.home
    n_entries = len(lines_of(home.audit))
    n_pages, delivered = 0, 0
    with serving(home.root, "--no-worker", log=home.root.parent / "serve.log") as server:
        for who in (PUBLISHER, ADVERTISER):
            world.installation.catalog.users.create_user(who)
            cookies = {"cleanroom": start_session(world.installation, who)}
            own = {"Sec-Fetch-Site": "same-origin"}
            with httpx.Client(base_url=server.url, cookies=cookies, headers=own, timeout=120) as browser:
                for address, text in crawl(browser, "/console/"):
                    n_pages += 1
                    if re.search(r"/files/[^/]+$", address):
                        assert who == ADVERTISER
                        delivered += bool(CANARIES.search(text))
                    else:
                        assert not CANARIES.search(text), address
                address = f"/console/rooms/{world.room.id}"
                for path, field in (("privacy", "organization"), ("people", "email"), ("overlap", "price")):
                    typed = browser.post(
                        f"{address}/{path}", data={"kind": "share", "units": "1", field: "user00001"}
                    )
                    assert typed.status_code >= 400
                    assert not CANARIES.search(re.sub(r'value="[^"]*"', "", typed.text)), path
        log = server.log.read_text()
    assert n_pages > 30, "the crawl found the pages"
    assert delivered, "the canaries go all the way: the receiver's own lists have them"
    assert not CANARIES.search(log)
    world.installation.audit.flush()
    new = b"\n".join(lines_of(home.audit, n_entries)).decode()
    assert new
    assert not CANARIES.search(new)
