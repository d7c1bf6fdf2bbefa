"""What a process of `killing` has loaded before it is forked; nobody else imports this.

Add here what takes a part of a second to load, which every one of fifty processes would pay.
"""

import lightgbm  # noqa: F401

import cleanroom_pipelines.engine.duckdb_engine
import cleanroom_pipelines.similarity.ranking
import cleanroom_pipelines.similarity.training
import cleanroom_pipelines.uploads.schemas  # noqa: F401
from cleanroom_pipelines.runs.code_location import load_repository

from . import killing  # noqa: F401

load_repository()
