"""Data-lab classes of the Media client; scripts written for Decentriq's Media API import this module name.

Keep out: everything but names from `media`.
"""

from cleanroom_pipelines.media.api import IdType, ValidationReport
from cleanroom_pipelines.media.data_lab import (
    DataLab,
    DataLabBuilder,
    DataLabDatasetType,
    DataLabReports,
    IdentifiersConfig,
)
from cleanroom_pipelines.media.validation_reports import ValidationReports

__all__ = [
    "DataLab",
    "DataLabBuilder",
    "DataLabDatasetType",
    "DataLabReports",
    "IdType",
    "IdentifiersConfig",
    "ValidationReport",
    "ValidationReports",
]
