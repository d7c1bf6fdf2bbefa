"""All validation reports of a base audience.

Lives here: `ValidationReports`.
Add here when a base audience gets another dataset.
Keep out: the single report (`api.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cleanroom_pipelines.documents import from_json
from cleanroom_pipelines.media.api import ValidationReport


@dataclass(frozen=True)
class ValidationReports:
    """The validation reports of the datasets that make up a base audience.

    Args:
        matching: Report of the user ids with their matching ids.
        segments: Report of the segments; None if none were provided.
        demographics: Report of the demographics; None if none were provided.
        embeddings: Report of the embeddings; None if none were provided.
    """

    matching: ValidationReport | None
    segments: ValidationReport | None
    demographics: ValidationReport | None
    embeddings: ValidationReport | None = None

    @property
    def identifiers(self) -> ValidationReport | None:
        """The same report as `matching`, under the name that Decentriq's Media API uses in data labs."""
        return self.matching

    def is_passed(self) -> bool:
        """Check whether the matching ids were provided, and every provided dataset was accepted."""
        return self.passed

    @property
    def passed(self) -> bool:
        """Whether the matching ids were provided, and every provided dataset was accepted."""
        reports = (self.matching, self.segments, self.demographics, self.embeddings)
        return self.matching is not None and all(report.passed for report in reports if report is not None)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Parse the server's response, which has a report for each provided dataset."""
        return from_json(cls, {"matching": None, "segments": None, "demographics": None, **value})

    def model_dump(self) -> dict[str, Any]:
        """Return the reports by dataset: None for a missing dataset; `embeddings` is omitted if missing."""
        reports = {"matching": self.matching, "segments": self.segments, "demographics": self.demographics}
        if self.embeddings is not None:
            reports["embeddings"] = self.embeddings
        return {dataset: None if report is None else report.as_dict() for dataset, report in reports.items()}

    def model_dump_json(self, indent: int | None = None) -> str:
        """Return the reports as JSON text."""
        return json.dumps(self.model_dump(), indent=indent, ensure_ascii=False)
