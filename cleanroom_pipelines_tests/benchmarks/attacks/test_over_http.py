"""Contract: one of each attack over HTTP: requests give the same results as in process, and their cost is in the
pair's ledger, in the audit log, and in the participants' view of it."""

from collections.abc import Iterator, Mapping

import pytest

from cleanroom_pipelines.benchmarks.attacks import aws
from cleanroom_pipelines.benchmarks.attacks.guessing import PLAYS, Play
from cleanroom_pipelines.benchmarks.attacks.playing import Numbers
from cleanroom_pipelines.benchmarks.attacks.worlds import Templates, World
from cleanroom_pipelines.privacy import in_units

from .over_http import serving

_ALWAYS = "testing thresholds of rooms"
_UNKNOWN = "unknown"
"""Budget left after a backup was restored."""
_MOST_WORLDS = 3
"""One seed in fifty is released as too small for a lookalike, which is a result but leaves lists unread."""


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Templates]:
    with serving() as server:
        yield Templates(tmp_path_factory.mktemp("worlds"), server.open_doors)


def _marked(play: Play) -> object:
    marks = () if play.names[0] == _ALWAYS else (pytest.mark.slow,)
    return pytest.param(play, id=play.names[0], marks=marks)


@pytest.mark.parametrize("play", [_marked(play) for play in PLAYS])
def test_attacks_over_http_are_served_and_paid_for(play: Play, templates: Templates) -> None:
    found: Mapping[str, Numbers] = {}
    for _ in range(_MOST_WORLDS):
        with templates.opening(*play.template(True, False)) as world:
            found = play.ask(world, True)
            _check_paid(world)
        if _answered(found) == sorted(play.names):
            break
    assert _answered(found) == sorted(play.names)


def _answered(found: Mapping[str, Numbers]) -> list[str]:
    return sorted(name for name, numbers in found.items() if numbers and "rejected" not in numbers)


def _check_paid(world: World) -> None:
    catalog = world.installation.catalog
    by_pair = {pair.id: catalog.pairs.ledger_lines(pair.id) for pair in catalog.pairs.all()}
    ((pair_id, lines),) = ((each, of) for each, of in by_pair.items() if {line.kind for line in of} - {_UNKNOWN})
    ledger = catalog.pairs.ledger(pair_id)
    world.installation.audit.flush()
    entries = list(world.installation.audit.entries())
    charged = {each["question"]: each["tenths"] for each in entries if each.get("operation") == "charge"}
    assert charged == {line.key: line.tenths for line in lines if line.kind != _UNKNOWN}
    assert ledger.spent == sum(line.tenths for line in lines)
    assert {line.kind for line in lines} - {"base"}, "more than the figures of the base was asked"
    assert any(each.get("request_id") for each in entries), "questions came as requests"
    left = in_units(ledger.left)
    if world.room.startswith("arn:"):
        assert all(f"Left: {left} of" in each for each in _statements(world))
    else:
        assert world.left() == left


def _statements(world: World) -> list[str]:
    """What the jobs that ended well say of their price."""
    doors = world.doors
    listed = doors.lookalikes(aws.ADVERTISER, "ListAudienceGenerationJobs", {})["audienceGenerationJobs"]
    told = [
        doors.lookalikes(aws.ADVERTISER, "GetAudienceGenerationJob",
                         {"audienceGenerationJobArn": each["audienceGenerationJobArn"]})
        for each in listed
    ]  # fmt: skip
    return [each["statusDetails"]["message"] for each in told if each["status"] == "ACTIVE"]
