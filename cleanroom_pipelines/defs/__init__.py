"""All Dagster definitions.

Lives here: assets, checks, jobs, partitions, resources, schedules, sensors, and the metadata of results.
Add here when Dagster must show or start something new.
Keep out: computation, and the lifecycle of records (runs).
"""
