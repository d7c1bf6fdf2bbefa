"""Validating one upload alone, through the doors that users reach.

Lives here: one function for a file of either side.
Keep out: assertions.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cleanroom_pipelines.engine import EngineSettings
from cleanroom_pipelines.identity import MatchingId
from cleanroom_pipelines.validation import ValidationReport
from cleanroom_pipelines.validation.rooms import Dataset, RoomUpload, ingest_seeds, validate_base


def report_on(
    upload: RoomUpload,
    *,
    engine: EngineSettings,
    progress: Callable[[float, str], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> ValidationReport:
    """The report of one upload: a seed's from ingesting it, another one's from validating it in a data lab."""
    asked: dict[str, Any] = {"engine": engine, "progress": progress, "should_cancel": should_cancel}
    with TemporaryDirectory() as name:
        folder = Path(name)
        if upload.dataset is Dataset.SEED_AUDIENCES:
            return ingest_seeds([upload], room_key=bytes(32), out=folder / "out", **asked).report
        uploads = [upload]
        if upload.dataset is not Dataset.MATCHING:
            (folder / "matching").write_text("u1,1\n")  # a data lab always has a matching table
            uploads.append(RoomUpload(Dataset.MATCHING, folder / "matching", MatchingId.STRING))
        return validate_base(uploads, **asked).reports[upload.dataset.key]
