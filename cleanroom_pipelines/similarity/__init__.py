"""The audience model: it is trained without a seed, and then ranks all users by their similarity to any seed.

Lives here: reading interactions, the representation, signals, the ensemble, metrics and explanation.
Add here when a step improves the ranking, or explains it better.
Keep out: access control (catalogue), exporting results (delivery), Dagster.

Importing this package is cheap: it exports only the specs. `training.train`, `ranking.generate` and
`seeds.read_seed` import numpy, scipy and pyarrow; LightGBM is imported by the first fit.
"""

from cleanroom_pipelines.similarity.specs import (
    GenerationSettings,
    InteractionsSchema,
    SizeProfile,
    TrainingReport,
    TrainingSettings,
    TrainingTables,
    UsersSchema,
    Window,
)
