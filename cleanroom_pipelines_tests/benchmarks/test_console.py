"""Contract: the load test of the console opens each page of a room that real work built, and reports it."""

import pytest

from cleanroom_pipelines.benchmarks.console import ConsolePlan, run_console, table
from cleanroom_pipelines.benchmarks.load import FLOOR


@pytest.mark.slow
def test_three_sessions_open_every_page_of_a_room() -> None:
    plan = ConsolePlan(n_sessions=3, seconds=2, pace_per_second=8, n_users=5_000, n_entries=300)
    result = run_console(plan)
    assert result["problems"] == []
    pages = result["pages"]
    assert {FLOOR, "all", "lookalike", "new lookalike", "activity", "insights", "rooms"} <= pages.keys()
    assert pages["all"]["n"] + pages[FLOOR]["n"] == pytest.approx(3 * 16, abs=3), "each session keeps its schedule"
    assert all(row["cpu_milliseconds"] > 0 for name, row in pages.items() if name != FLOOR)
    assert "0 problems" in table(result)
