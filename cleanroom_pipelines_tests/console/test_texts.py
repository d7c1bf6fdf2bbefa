"""The catalogue of the console's texts.

Contract: each text that a template or a page uses exists, each text that exists is used, and the keys are sorted.
"""

import json
import re
from pathlib import Path

import cleanroom_pipelines.console

FOLDER = Path(cleanroom_pipelines.console.__file__).parent
TEXTS: dict[str, str] = json.loads((FOLDER / "texts" / "en.json").read_text("utf-8"))
SOURCE = "\n".join(path.read_text("utf-8") for path in FOLDER.rglob("*") if path.suffix in (".html", ".py"))
KEY = r"[a-z]\w*(?:\.\w+)+"


def test_each_text_that_is_used_exists() -> None:
    used = set(re.findall(rf"""\b(?:t|text)\(["']({KEY})["'][,)]""", SOURCE))
    used |= set(re.findall(rf'done="({KEY})"', SOURCE))
    assert len(used) > 50
    assert used - {"NAME.key", "NAME.saved.done"} - TEXTS.keys() == set()


def test_each_text_that_exists_is_used() -> None:
    quoted = set(re.findall(rf"""["']({KEY})["']""", SOURCE))
    # the beginning of a key that the rest is added to: "privacy.kind." ~ kind, f"privacy.kind.{kind}"
    starts = tuple(set(re.findall(r"""["']([a-z]\w*\.(?:\w+\.)*(?:\w+_)?)["'{]""", SOURCE)))
    groups = tuple(f"{each}." for each in quoted - TEXTS.keys())  # a group that a function completes
    unused = [key for key in TEXTS if key not in quoted and not key.startswith((*starts, *groups))]
    assert unused == []


def test_the_keys_are_sorted() -> None:
    assert list(TEXTS) == sorted(TEXTS)
