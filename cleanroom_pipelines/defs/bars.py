"""Numbers as text bars, which Dagster shows without a click.

Lives here: drawing rows of numbers as a Markdown table of bars.
Add here when bars must show something else than lengths.
Keep out: which numbers a page shows (pages, room_pages), and pictures (pictures).
"""

from collections.abc import Sequence

import dagster as dg

from cleanroom_pipelines.runs.reasons import escaped

_SHOWN_CHARACTERS = 1_000  # Dagster hides longer Markdown behind a click
_WIDTH = 20
_LABEL_CHARACTERS = 60

Cell = tuple[float | None, str]
"""A number and its text; None has no bar."""


def bars(
    what: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], *, largest: float | None = None
) -> dg.MetadataValue:
    """Draw numbers as text bars, in as many rows as Dagster shows without a click.

    Args:
        what: Heading of the labels.
        columns: Headings of the numbers.
        rows: Labels, each with one number per column.
        largest: The number with the longest bar; the largest of all if not given.
    """
    longest = largest or max((value or 0 for _, cells in rows for value, _ in cells), default=0) or 1
    lines = [f"| {what} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    n_characters = sum(map(len, lines)) + len(lines)
    for number, (label, cells) in enumerate(rows):
        words = escaped(" ".join(label.split())[:_LABEL_CHARACTERS])
        line = f"| {words} | {' | '.join(_bar(cell, longest) for cell in cells)} |"
        more = f"| {len(rows) - number} more |" + " |" * len(columns)
        n_characters += len(line) + 1
        if n_characters + len(more) > _SHOWN_CHARACTERS:
            lines.append(more)
            break
        lines.append(line)
    return dg.MetadataValue.md("\n".join(lines))


def _bar(cell: Cell, longest: float) -> str:
    value, text = cell
    length = 0 if not value else max(1, min(_WIDTH, round(_WIDTH * value / longest)))
    return f"{'█' * length} {text}".strip()
