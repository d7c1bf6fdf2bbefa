"""The partition sets: one per kind of resource, a partition a resource.

Lives here: the sets and which kind each belongs to.
Keep out: partition keys; the catalogue makes them.
"""

import dagster as dg

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.execution.traces import PARTITION_SETS

PARTITIONS = {kind: dg.DynamicPartitionsDefinition(name=name) for kind, name in PARTITION_SETS.items()}

training_datasets = PARTITIONS[Kind.TRAINING_DATASET]
audience_models = PARTITIONS[Kind.AUDIENCE_MODEL]
configured_audience_models = PARTITIONS[Kind.CONFIGURED_AUDIENCE_MODEL]
generation_jobs = PARTITIONS[Kind.GENERATION_JOB]
export_jobs = PARTITIONS[Kind.EXPORT_JOB]
data_labs = PARTITIONS[Kind.DATA_LAB]
data_rooms = PARTITIONS[Kind.DATA_ROOM]
custom_audiences = PARTITIONS[Kind.CUSTOM_AUDIENCE]
audience_lists = PARTITIONS[Kind.AUDIENCE_LIST]
