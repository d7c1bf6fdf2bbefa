"""Forms that are sent twice, over HTTP against a real `cleanroom serve`.

Contract: each form of a page that changes something has a mark; a form that is sent twice, also at the same time,
is handled once, and both requests get the same answer; another form, another session and a form without a mark are
no repetitions; a rejected form is handled again.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cleanroom_pipelines.console.forms import Form
from cleanroom_pipelines.console.repeats import MARK, RepeatedForms
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines_tests.server.server import Room, serving

from .attacked import OPERATOR, Target, fill


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    home = tmp_path_factory.mktemp("repeats") / "home"
    room = Room.open(home)
    with serving(home, "--no-worker") as server:
        yield fill(room, server.url)


def mark_of(page: str) -> str:
    forms, marks = page.count('method="post"'), re.findall(rf'name="{MARK}" value="([\w-]+)"', page)
    assert (len(marks), len(set(marks))) == (forms, 1), "each form has the mark of the page"
    return str(marks[0])


def test_a_double_click_proposes_and_delivers_once(target: Target) -> None:
    room, pair = f"/console/rooms/{target.world.room}", target.world.budget.pair.id
    one = f"{room}/audiences/{target.ids['audience_id']}"
    browser = target.browser("seed")
    for page, to, fields, count in (
        (f"{room}/privacy", f"{room}/privacy", {"kind": "refill", "units": "3"}, _proposals(target, pair)),
        (one, f"{one}/deliver", {"destination": "plain", "priced": "1000"}, _lists(target)),
    ):
        form = {**fields, MARK: mark_of(browser.get(page).text)}
        before = count()
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _, to=to, form=form: browser.post(to, data=form), range(4)))
        assert [each.status_code for each in answers] == [303] * 4
        assert len({each.headers["location"] for each in answers}) == 1
        assert count() == before + 1
        again = browser.post(to, data={**fields, MARK: mark_of(browser.get(page).text)})
        assert again.status_code == 303
        assert count() == before + 2, "the form of another page is no repetition"


def test_a_double_click_issues_one_key_and_shows_it_twice(target: Target) -> None:
    browser, account = target.browser(OPERATOR), target.ids["account_id"]
    page = f"/console/operator/accounts/{account}"
    form = {"action": "key", MARK: mark_of(browser.get(page).text)}
    first, second = browser.post(page, data=form), browser.post(page, data=form)
    assert first.text == second.text
    assert len(target.world.installation.catalog.parties.access_keys(account)) == 2, "one since the account exists"
    other = target.browser("seed").post(page, data=form)
    assert other.status_code == 403, "an answer is only for its session"


def _proposals(target: Target, pair: str):  # type: ignore[no-untyped-def]
    return lambda: len(target.world.installation.catalog.pairs.proposals(pair))


def _lists(target: Target):  # type: ignore[no-untyped-def]
    kinds = ["user_list"]
    return lambda: len(target.world.call("seed", "list_jobs", room_id=target.world.room, kinds=kinds)["jobs"])


def test_rejected_forgotten_and_unmarked_forms_are_handled_again() -> None:
    seconds, handled = [0.0], list[int]()
    forms = RepeatedForms(lambda: seconds[0])

    def send(status: int, mark: str = "m", session: str = "s", units: str = "1") -> int:
        form = Form([("units", units), *([(MARK, mark)] if mark else [])])
        handled.append(0)

        def answer() -> Reply:
            handled[-1] = 1
            return Reply(status, {})

        return forms.answer(session, "/privacy", form, answer).status

    assert [send(409), send(303), send(303), send(500)] == [409, 303, 303, 303]
    assert handled == [1, 1, 0, 0]
    assert [send(200, mark=""), send(200, mark="n"), send(200, session="t"), send(200, units="2")] == [200] * 4
    assert handled[4:] == [1, 1, 1, 1]
    seconds[0] += 61
    assert send(200) == 200
