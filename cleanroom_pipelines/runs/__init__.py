"""How pending records get run: in this process, in a worker, by the daemon.

Lives here: the installation (settings and the parts they open), the work of each kind, the inbox, notices,
retention, backups, and running what is pending.
Add here when a pending record must be done in a further place or way.
Keep out: what an asset looks like in Dagster (defs), and any computing on users' data (the core).
"""
