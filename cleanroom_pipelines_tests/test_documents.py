"""Documents: what all of them have in common.

Contract: a document is read by its JSON names, in the order of its fields; another document is rejected without
quoting it.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import pytest
from pydantic import Field

from cleanroom_pipelines.documents import Document


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Part(Document):
    colour: Colour


@dataclass(frozen=True)
class Whole(Document):
    n_users: Annotated[int, Field(alias="numUsers")]
    parts: tuple[Part, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    share: float | None = None


WHOLE = Whole(3, (Part(Colour.RED),), {"limits": (1, 2), "rate": 1}, 0.5)
TEXT = '{"numUsers": 3, "parts": [{"colour": "red"}], "facts": {"limits": [1, 2], "rate": 1}, "share": 0.5}'


def test_text_and_back() -> None:
    assert json.dumps(WHOLE.as_dict()) == TEXT
    assert json.dumps(Whole.from_dict(json.loads(TEXT)).as_dict()) == TEXT
    assert Whole.from_dict({"numUsers": 3}) == Whole(3)


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"numUsers": "secret"},
        {"numUsers": 3, "secret": 1},
        {"numUsers": 3, "parts": [{"colour": "secret"}]},
        {"numUsers": 3, "parts": [{"colour": "red", "secret": 1}]},
    ],
)
def test_another_document_is_rejected_without_quoting_it(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^The document is not a valid Whole\.$") as caught:
        Whole.from_dict(value)
    assert caught.value.__context__ is None


def test_importing_it_is_light() -> None:
    script = "import sys, cleanroom_pipelines.documents; print('pydantic' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
