"""Sources: where tables are stored.

Lives here: local paths, object stores, Iceberg, Delta and databases as sources of interactions, users and seeds.
Add here when tables may be stored in another kind of place.
Keep out: reading and validating the local files (uploads.files).
"""

from cleanroom_pipelines.uploads.sources.locations import is_remote, parse_source
from cleanroom_pipelines.uploads.sources.opening import Sources
from cleanroom_pipelines.uploads.sources.tables import Connection

__all__ = ["Connection", "Sources", "is_remote", "parse_source"]
