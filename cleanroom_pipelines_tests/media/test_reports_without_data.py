"""Contract: requesting a report for missing data raises a NotProvisionedError with a remedy, never a ServerError
about an artifact."""

import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.media import errors
from cleanroom_pipelines.runs.installation import Installation

from .groups import MediaWorld


@pytest.mark.parametrize(("group", "kind"), [("base", "base_reports"), ("seed", "seeds_report")])
def test_a_report_of_nothing(installation: Installation, group: str, kind: str) -> None:
    world = MediaWorld.open(installation)
    world.provision()
    job = world.ask(group, kind)["id"]
    world.finish(Kind.DATA_ROOM, world.room)
    with pytest.raises(errors.NotProvisionedError) as refused:
        world.call(group, "get_job_result", job_id=job)
    assert "Provision" in str(refused.value)
