"""Imports that a process of `killing` loads before it is forked; no other module imports this.

Add here imports that take a noticeable part of a second, because each of fifty processes would repeat them.
"""

import lightgbm  # noqa: F401

import cleanroom_pipelines.engine.duckdb_engine
import cleanroom_pipelines.similarity.ranking
import cleanroom_pipelines.similarity.training
import cleanroom_pipelines.uploads.schemas  # noqa: F401
from cleanroom_pipelines.runs.dagster_home import load_repository

from . import killing  # noqa: F401

load_repository()
