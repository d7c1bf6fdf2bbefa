"""Explain why ids of two tables do not match: one sentence with counts and a likely cause, never an id.

Lives here: comparing ids after small changes of their form, and describing the form of one party's own ids.
Add here when ids of the same people are written differently in another way.
Keep out: deciding whether ids match (`similarity`, `audiences`).

There are two functions, because comparing the ids of two parties would reveal the ids of one to the other:
- `no_match` compares two tables of the same party, such as a publisher's segments and matching ids, or the
  files of one person's command.
- `form_of` describes the ids of one party alone. Across parties only this may be shown, to that party, next to the
  kind of ids that the other side declared. Which changes of form would make ids match must not be computed: the
  owner of a seed could ask about any person by a seed of one id, in the wrong letter case, outside the budget.
"""

from cleanroom_pipelines.engine import Engine
from cleanroom_pipelines.identity.decimals import DECIMAL_TAIL, WHOLE_NUMBER

_TRIMMED = "trim({0}, chr(9) || chr(10) || chr(13) || ' ')"
# Changed forms of an id in which ids may match, each with its description; on a tie, the first is named.
_CHANGES = {
    _TRIMMED: "without the spaces around them",
    f"lower({_TRIMMED})": "without regard to letter case",
    f"ltrim({_TRIMMED}, '0')": "with leading zeros removed",
    f"CASE WHEN regexp_full_match({_TRIMMED}, '{WHOLE_NUMBER}') THEN "
    f"regexp_replace({_TRIMMED}, '{DECIMAL_TAIL}', '') ELSE {_TRIMMED} END": "without the decimal tail .0",
    f"replace(lower({_TRIMMED}), '-', '')": "without hyphens",
}
_HASH = "[0-9a-fA-F]{64}"
_FORMS = {
    _HASH: "look like SHA-256 hashes (64 hex digits)",
    r"\s*[^@\s]+@[^@\s]+\.[^@\s]+\s*": "look like e-mail addresses",
    r"\s*\+[0-9][-0-9 ()./]{6,}": "look like phone numbers",
    r"-?[0-9]+[.]0+": "are numbers with the decimal tail .0; save the column as text",
    r"\x27.*\x27|\x22.*\x22": "are in quotation marks",
    r"\s+\S.*|.*\S\s+": "have spaces around them",
    r"0[0-9]+": "are numbers with leading zeros",
}
_MOST = 0.5


def no_match(
    engine: Engine, ids: str, others: str, *, what: str = "ids", where: str = "", needs_cause: bool = False
) -> str:
    """Describe why none of a party's ids occur in another of its tables: the number of ids, and the likely cause.

    Args:
        engine: A session that can run both queries.
        ids: Query of one column of texts named id.
        others: Query of the same shape.
        what: The word for the ids, in plural.
        where: The end of the first sentence, such as "are in the matching table".
        needs_cause: Whether to return an empty text if no cause is likely, since it may be meant so.

    Returns:
        A sentence with the number of ids, and one with the likely cause.
    """
    n_ids, n_hashed = _counts(engine, ids)
    n_others, n_others_hashed = _counts(engine, others)
    found = f"None of the {n_ids:,} {what} {where or 'match'}."
    if (n_hashed > _MOST * n_ids) != (n_others_hashed > _MOST * n_others):
        return f"{found} One side looks hashed (64 hex digits), the other does not."
    counts = [(_n_matching(engine, ids, others, change), words) for change, words in _CHANGES.items()]
    n_matching, words = max(counts, key=lambda each: each[0])
    if not n_matching:
        return "" if needs_cause else f"{found} The two tables seem to hold different kinds of ids."
    those = "They" if n_matching == n_ids else f"{n_matching:,} of them"
    return f"{found} {those} would match {words}."


def form_of(engine: Engine, ids: str, *, what: str = "ids") -> str | None:
    """Describe the format that most of a party's ids have, without counts; None if that format is ordinary.

    Args:
        engine: A session that can run the query.
        ids: Query of one column of texts named id.
        what: The word for the ids, in plural.
    """
    tests = ", ".join(
        f"count(*) FILTER (regexp_full_match(id, '{pattern}')) AS form_{number}"
        for number, pattern in enumerate(_FORMS)
    )
    counts = engine.fetch(f"SELECT count(*) AS n_ids, {tests} FROM ({ids}) WHERE id IS NOT NULL").to_pylist()[0]
    n_ids = counts["n_ids"]
    for number, words in enumerate(_FORMS.values()):
        n_such = counts[f"form_{number}"]
        if n_such and n_such > _MOST * n_ids:
            return f"{'All' if n_such == n_ids else 'Most'} of the {what} {words}."
    return None


def _counts(engine: Engine, ids: str) -> tuple[int, int]:
    """The number of different ids, and the number of ids that look hashed."""
    row = engine.fetch(
        f"SELECT count(*) AS n, count(*) FILTER (regexp_full_match(id, '{_HASH}')) AS n_hashed "
        f"FROM (SELECT DISTINCT id FROM ({ids}) WHERE id IS NOT NULL)"
    ).to_pylist()[0]
    return row["n"], row["n_hashed"]


def _n_matching(engine: Engine, ids: str, others: str, change: str) -> int:
    changed = change.format("id")
    row = engine.fetch(
        # one row: the different ids that match after the change
        f"SELECT count(DISTINCT id) AS n FROM ({ids}) AS ids "
        f"WHERE {changed} IN (SELECT {changed} FROM ({others}) AS others WHERE id IS NOT NULL)"
    )
    return int(row["n"][0].as_py())
