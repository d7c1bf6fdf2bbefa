"""Do pending work: in this process, in a worker process, or in Dagster's daemon.

Lives here: the installation (its settings, databases, stores and keys), building each kind of resource, the inbox,
notices, retention, backups, and running pending work.
Add here when pending work must run in another place or way.
Keep out: how Dagster shows an asset (defs), and computation on users' data (the core).
"""
