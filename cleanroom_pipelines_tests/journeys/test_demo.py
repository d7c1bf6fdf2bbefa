"""`cleanroom demo`, run as in the README.

Contract: on real grocery data the audience finds the held-out seed better than chance. It finds the households
that redeem later better than a random list and than a list of the most active households, also among those that
were mailed. A second run changes nothing.
"""

import pytest

from cleanroom_pipelines.runs.installation import Installation, Settings

from .. import worlds
from .commands import Demo, run

pytestmark = pytest.mark.slow


def test_the_demo_prints_its_steps(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    told = demo.told
    recall = told["metrics"]["recall_at"]
    assert recall["recall_interval"][0] > recall["recall_random"]
    assert told["report"]["report"]["outcome"] == "PASSED"
    rows = {(row["among"], row["share"]): row for row in told["later_redeemers"]}
    for share in (0.1, 0.2):
        everybody, mailed = rows["all households", share], rows["mailed households", share]
        assert everybody["audience"] > everybody["random"]
        assert mailed["audience"] > mailed["random"]
        assert mailed["audience"] > mailed["most_active"], "better than the list people send today"
    lines = [
        f"best {share:.0%} of {among}: {row['audience']} of {row['n_later']} later redeemers, "
        f"most active {row['most_active']}, random {row['random']:.1f}"
        for (among, share), row in sorted(rows.items())
    ]
    with capsys.disabled():
        print(f"\nThe demo took {told['seconds']} s: {told['metrics']['sentence']}.", *lines, sep="\n")  # noqa: T201

    home = demo.home  # not a copy: the demo's tables are in its home, and another path is another source
    installation = Installation(Settings(home))
    buckets = installation.home.accounts / "000000000000" / "buckets"
    for location in told["exports"]:
        assert list((buckets / location.removeprefix("s3://")).glob("part-*"))
    before = worlds.statuses(installation), set(home.joinpath("artifacts").rglob("*"))
    again = run(home, "demo")
    assert (worlds.statuses(installation), set(home.joinpath("artifacts").rglob("*"))) == before
    for words in ("Seed validation report", "most active", "random", "Exports", "cleanroom dev", str(buckets)):
        assert words in again
