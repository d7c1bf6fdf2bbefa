"""What pytest collected: the marks of every test, by file, before `-m` leaves some out.

Lives here: what the root conftest keeps and the test of the README's counts reads.
Keep out: running anything.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

Marks = dict[Path, list[set[str]]]
MARKS = pytest.StashKey[Marks]()


def marks_of(items: Iterable[pytest.Item]) -> Marks:
    """By file, the names of the marks of each of its tests."""
    marks: Marks = defaultdict(list)
    for item in items:
        marks[item.path].append({mark.name for mark in item.iter_markers()})
    return dict(marks)
