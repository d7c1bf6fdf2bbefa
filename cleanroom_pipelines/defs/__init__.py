"""The shell: what Dagster loads.

Lives here: assets, checks, jobs, partitions, resources, schedules, sensors, and how their results look.
Add here when something must be seen or started in Dagster.
Keep out: computing, and the life of records (runs).
"""
