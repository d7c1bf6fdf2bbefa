"""Defining audiences: a form for each kind, and drafts, which show an audience's size before it is created.

Lives here: rules as blocks, lookalikes, remarketing and exclusion audiences.
Add here when another kind of audience can be defined.
Keep out: audiences that exist (`audiences.py`), and which definitions are valid (the handlers).
"""

from collections.abc import Mapping
from typing import Any

from cleanroom_pipelines.console.page import PageRequest, Route
from cleanroom_pipelines.console.pages.asking import agree
from cleanroom_pipelines.console.pages.audiences import (
    KINDS,
    LIST,
    ONE,
    missing_page,
    names_in,
    others_in,
    price_of,
    require_agreed,
)
from cleanroom_pipelines.console.rules import RuleForm, key_of, name_of, sentence, source_of
from cleanroom_pipelines.media.errors import InvalidDefinitionError, InvalidRequestError, MediaError
from cleanroom_pipelines.media.protocol import JobKind, Method, error_from_dict
from cleanroom_pipelines.server.requests import Reply

NEW = LIST + "/new/{kind}"
DRAFT = LIST + "/drafts/{job_id}"
_FEW_VALUES = 12
_PRICED_SOURCES = 3  # the price of another source is shown once it is chosen


def show_new(page: PageRequest) -> Reply:
    """Show the form for a kind of audience, empty or filled in from a draft or another audience."""
    definition = _given(page)
    if _kind(page) == "rule_based":
        rule = RuleForm.from_definition(definition) if definition else RuleForm()
        return _show_rule(page, rule)
    if _kind(page) == "lookalike":
        return _show_lookalike(page, definition or {})
    return _show_seeds(page, definition or {})


def send_new(page: PageRequest) -> Reply:
    """Edit a rule, ask for a draft's size, or create an audience."""
    if page.form.text("draft"):
        return _create(page, _draft(page, page.form.text("draft"))["definition"])
    action = page.form.text("do")
    if _kind(page) == "rule_based":
        rule = RuleForm.read(page.form)
        if rule.edit(action) or action == "show":
            return _show_rule(page, rule)
    definition = _sent(page)
    if action != "size":
        return _create(page, definition)
    _check_price(page, definition)
    job = page.call(
        Method.START_JOB, room_id=page.path["room_id"], kind=JobKind.AUDIENCE_SIZE, definition=definition
    )
    return page.redirect(DRAFT, room_id=page.path["room_id"], job_id=job["id"])


def show_again(page: PageRequest) -> Reply:
    """Show a form or draft that was rejected."""
    if page.form.text("draft"):
        return draft(page)
    if _kind(page) == "rule_based":
        return _show_rule(page, RuleForm.read(page.form))
    return (_show_lookalike if _kind(page) == "lookalike" else _show_seeds)(page, _sent(page))


def draft(page: PageRequest) -> Reply:
    """Show a draft: its definition in words, and its size once it is known."""
    job_id = page.path.get("job_id") or page.form.text("draft")
    found = _draft(page, job_id)
    job = page.call(Method.GET_JOB, job_id=job_id)
    size, price, failure = None, None, error_from_dict(job["error"]) if job["error"] else None
    if job["status"] == "Success":
        try:
            price = page.call(Method.GET_JOB_PRICE, job_id=job_id)
            size = None if price["units"] else page.call(Method.GET_JOB_RESULT, job_id=job_id)
        except MediaError as error:
            failure = error
    names = names_in(page.call(Method.LIST_AUDIENCES, room_id=page.path["room_id"]))
    return _show(
        page,
        "audiences/draft.html",
        kind=found["definition"]["kind"],
        job=job,
        size=size,
        price=price,
        failure=failure,
        means=sentence(page.rendering.text, found["definition"], names),
    )


def pay_draft(page: PageRequest) -> Reply:
    """Pay for a draft's size, at the price that the form sends."""
    job_id = page.path["job_id"]
    agree(page, page.call(Method.GET_JOB_PRICE, job_id=job_id))
    page.call(Method.GET_JOB_RESULT, job_id=job_id)
    return page.redirect(DRAFT, room_id=page.path["room_id"], job_id=job_id)


def _create(page: PageRequest, definition: Mapping[str, Any]) -> Reply:
    if definition["kind"] == "lookalike":  # only a lookalike is paid when it is built
        _check_price(page, definition)
    made = page.call(
        Method.CREATE_AUDIENCE,
        room_id=page.path["room_id"],
        name=page.form.text("name") or _default_name(page, definition),
        definition=definition,
        shared_with=page.form.texts("participants"),
    )
    return page.redirect(ONE, room_id=page.path["room_id"], audience_id=made["id"], done="audiences.created.done")


def _check_price(page: PageRequest, definition: Mapping[str, Any]) -> None:
    price = price_of(page, JobKind.AUDIENCE_SIZE, definition=definition)
    is_like = definition["kind"] == "lookalike"  # its form shows a price for each source
    name = f"priced-{key_of(definition['source'])}" if is_like else "priced"
    require_agreed(page, price, name)


def _show_rule(page: PageRequest, rule: RuleForm) -> Reply:
    found, definition = _found(page), rule.definition()
    price, wrong = None, None
    try:
        price = price_of(page, JobKind.AUDIENCE_SIZE, definition=definition)
    except InvalidDefinitionError as invalid:
        wrong = invalid
    # while blocks are edited, an unfinished one is not an error yet
    if isinstance(page.error, InvalidDefinitionError):
        t = page.rendering.text
        rule.note(page.error.attributes.get("place", ""), _words(page.error), t("audiences.value_needed"))
        page.error = InvalidDefinitionError(t("audiences.incomplete"), remedy=t("audiences.incomplete_remedy"))
    return _show(
        page,
        "audiences/rule.html",
        rule=rule,
        sources=_sources(page, found, with_base=True),
        values=found["values"],
        few_values=_FEW_VALUES,
        means=sentence(page.rendering.text, definition, names_in(found)),
        price=price,
        is_finished=wrong is None,
    )


def _show_lookalike(page: PageRequest, definition: Mapping[str, Any]) -> Reply:
    found = _found(page)
    known = _sources(page, found, with_base=False)
    given = definition.get("source")
    chosen = key_of(given) if given else known[0][0] if known else ""
    priced = {chosen, *(key for key, _ in known[:_PRICED_SOURCES])}
    sources = [
        (key, name, key in priced, price_of(page, JobKind.AUDIENCE_SIZE, definition=_like(key, 10)))
        if key in priced
        else (key, name, False, None)
        for key, name in known
    ]
    return _show(
        page,
        "audiences/lookalike.html",
        sources=sources,
        chosen=chosen,
        reach=definition.get("reach") if given else 10,
        excludes=bool(definition.get("exclude_seed_audience")),
        rows=_rows(page, found, chosen),
    )


def _show_seeds(page: PageRequest, definition: Mapping[str, Any]) -> Reply:
    found, kind = _found(page), _kind(page)
    types = [each["audience_type"] for each in found["seeds"]]
    chosen = definition.get("audience_type") or (types[0] if types else "")
    shown = {"kind": kind, "audience_type": chosen}
    price = price_of(page, JobKind.AUDIENCE_SIZE, definition=shown) if chosen else None
    means = sentence(page.rendering.text, shown, {})
    return _show(
        page,
        "audiences/seeds.html",
        types=[(each, each) for each in types],
        chosen=chosen,
        price=price,
        means=means,
    )


def _show(page: PageRequest, template: str, **values: Any) -> Reply:
    """Render a form; an error about a field is shown next to that field."""
    t, error, problems = page.rendering.text, page.error, dict[str, str]()
    if error is not None and error.attributes.get("reason") == "name":
        problems["name"] = t("audiences.name_taken")
    elif isinstance(error, InvalidRequestError) and error.message.startswith("The name"):
        is_blank = not page.form.text("name").strip()
        problems["name"] = t("audiences.name_missing" if is_blank else "audiences.name_invalid")
        page.error = InvalidRequestError(t("audiences.incomplete"), remedy=t("audiences.incomplete_remedy"))
    elif isinstance(error, InvalidDefinitionError) and page.path.get("kind") == "lookalike":
        problems["reach"] = _words(error)
        page.error = InvalidDefinitionError(t("audiences.incomplete"), remedy=t("audiences.incomplete_remedy"))
    return page.show(
        template,
        room=page.room(),
        problems=problems,
        others=others_in(page.room()),
        **{"kind": page.path.get("kind", ""), **values},
    )


def _default_name(page: PageRequest, definition: Mapping[str, Any]) -> str:
    """Return a default name for an audience; empty for a rule-based one, which no short name describes."""
    kind, source = definition["kind"], definition.get("source", definition)
    name = source.get("audience_type") or names_in(_found(page)).get(source.get("id", ""))
    if kind == "rule_based" or not name:
        return ""
    return page.rendering.text(
        f"audiences.default_name.{kind}", source=name, reach=definition.get("reach")
    ).unescape()


def _words(error: MediaError) -> str:
    """Return the text of a definition's error without its location, because the form shows the error there."""
    problem = error.message.removeprefix(f"At {error.attributes.get('place', '')}: ")
    return f"{problem} {error.remedy}"


def _kind(page: PageRequest) -> str:
    if page.path["kind"] not in KINDS:
        raise missing_page(page)
    return page.path["kind"]


def _found(page: PageRequest) -> dict[str, Any]:
    found: dict[str, Any] = page.call(Method.LIST_AUDIENCES, room_id=page.path["room_id"])
    return found


def _given(page: PageRequest) -> Mapping[str, Any] | None:
    """Return the definition that fills a new form, from a draft or another audience; None for an empty form."""
    definition: Mapping[str, Any] | None = None
    if page.query.get("draft"):
        definition = _draft(page, page.query["draft"])["definition"]
    elif page.query.get("from"):
        params = {"room_id": page.path["room_id"], "audience_id": page.query["from"]}
        definition = page.call(Method.GET_AUDIENCE, **params)["definition"]
    return definition if definition and definition["kind"] == _kind(page) else None


def _draft(page: PageRequest, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = page.call(Method.GET_DRAFT, job_id=job_id)
    if found["room_id"] != page.path["room_id"]:
        raise missing_page(page)
    return found


def _sources(page: PageRequest, found: Mapping[str, Any], *, with_base: bool) -> list[tuple[str, str]]:
    sources: list[dict[str, str]] = [{"kind": "base"}] if with_base else []
    sources += [{"kind": "seed", "audience_type": each["audience_type"]} for each in found["seeds"]]
    sources += [{"kind": "custom", "id": each["id"]} for each in found["audiences"]]
    names = names_in(found)
    return [(key_of(each), name_of(page.rendering.text, each, names)) for each in sources]


def _rows(page: PageRequest, found: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    """Return the reach table of a lookalike of the same source, if one was built."""
    for each in found["audiences"]:
        definition = each["definition"]
        if definition["kind"] == "lookalike" and key_of(definition["source"]) == source:
            params = {"room_id": page.path["room_id"], "audience_id": each["id"]}
            if statistics := page.call(Method.GET_AUDIENCE, **params)["statistics"]:
                return list(statistics["reach"])
    return []


def _sent(page: PageRequest) -> dict[str, Any]:
    """Return the definition in the form that was sent."""
    if _kind(page) == "rule_based":
        return RuleForm.read(page.form).definition()
    return _lookalike(page) if _kind(page) == "lookalike" else _seeds(page)


def _lookalike(page: PageRequest) -> dict[str, Any]:
    return {
        **_like(page.form.secret("source"), page.form.number("reach")),
        "exclude_seed_audience": page.form.has("exclude"),
    }


def _like(source: str, reach: int | None) -> dict[str, Any]:
    return {"kind": "lookalike", "source": source_of(source), "reach": reach, "exclude_seed_audience": False}


def _seeds(page: PageRequest) -> dict[str, Any]:
    return {"kind": _kind(page), "audience_type": page.form.secret("audience_type")}


PAGES = (
    Route("GET", NEW, show_new),
    Route("POST", NEW, send_new, show_again),
    Route("GET", DRAFT, draft),
    Route("POST", DRAFT, pay_draft, draft),
)
