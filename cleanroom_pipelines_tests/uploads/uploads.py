"""Validating one upload alone, through the public entry points.

Lives here: one function for a file of either side.
Keep out: assertions.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from cleanroom_pipelines.engine import Runtime
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads.report import ValidationReport
from cleanroom_pipelines.uploads.rooms import Dataset, RoomUpload, ingest_seeds, validate_base


def report_on(upload: RoomUpload, *, runtime: Runtime) -> ValidationReport:
    """The report of one upload: a seed's from ingesting it, another one's from validating it in a data lab."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if upload.dataset is Dataset.SEED_AUDIENCES:
            return ingest_seeds([upload], room_key=bytes(32), out=folder / "out", runtime=runtime).report
        uploads = [upload]
        if upload.dataset is not Dataset.MATCHING:
            (folder / "matching").write_text("u1,1\n")  # a data lab always has a table of matching ids
            uploads.append(RoomUpload(Dataset.MATCHING, folder / "matching", MatchingId.STRING))
        return validate_base(uploads, runtime=runtime).reports[upload.dataset.key]
