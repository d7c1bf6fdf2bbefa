"""The audience model: trained without a seed, then used to rank all users by similarity to one.

Lives here: reading interactions, the representation, signals, the ensemble, metrics and explanation.
Add here when a step improves the ranking, or explains it better.
Keep out: access control (catalogue), exporting results (delivery), Dagster.

Importing this package is cheap: it exports only the specs. `training.train`, `ranking.generate` and
`seeds.read_seed` import numpy, scipy and pyarrow; LightGBM is imported by the first fit.
"""

from cleanroom_pipelines.similarity.specs import (
    GenerationReport,
    GenerationSettings,
    InteractionsSchema,
    SizeProfile,
    TrainingReport,
    TrainingSettings,
    TrainingTables,
    UsersSchema,
    Window,
)

__all__ = [
    "GenerationReport",
    "GenerationSettings",
    "InteractionsSchema",
    "SizeProfile",
    "TrainingReport",
    "TrainingSettings",
    "TrainingTables",
    "UsersSchema",
    "Window",
]
