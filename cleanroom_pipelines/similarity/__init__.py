"""The audience model: trained without any seed, then ranking everybody by similarity to one.

Lives here: reading interactions, the representation, signals, the ensemble, metrics, explanation, the benchmark.
Add here when it makes the ranking better, or better understood.
Keep out: who may ask (catalogue), where results go (delivery), Dagster.

Importing this package is cheap: it gives the specs. `training.train`, `ranking.generate` and `seeds.read_seed`
bring numpy, scipy and pyarrow; LightGBM comes with the first fit.
"""

from cleanroom_pipelines.similarity.specs import (
    GenerationReport,
    GenerationSettings,
    InteractionsSchema,
    SizeProfile,
    TrainingReport,
    TrainingSettings,
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
    "UsersSchema",
    "Window",
]
