"""A self-hosted audience clean room on Dagster assets, DuckDB, pandera and LightGBM."""
