"""Validation: every upload is checked against its schema and gets a report of counts, never of values.

Lives here: the validation report, the schemas of what is uploaded, the validation of whole files, and a profile.
Add here when something new can be uploaded.
Keep out: what makes a row valid (tables), what is done with valid data, and any cell value outside the function
that judges one batch.
"""

from cleanroom_pipelines.validation.files import validate_interactions, validate_seed, validate_users
from cleanroom_pipelines.validation.profile import profile_interactions
from cleanroom_pipelines.validation.report import (
    ErrorCode,
    Outcome,
    ValidationReport,
    report_markdown,
    report_sentence,
)

__all__ = [
    "ErrorCode",
    "Outcome",
    "ValidationReport",
    "profile_interactions",
    "report_markdown",
    "report_sentence",
    "validate_interactions",
    "validate_seed",
    "validate_users",
]
