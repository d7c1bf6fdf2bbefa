"""Where state lives: the home, its keys, artifacts, seeds and destinations.

Lives here: the one place that maps ids to paths and the one that writes artifacts.
Add here when something new is kept on disk or in an object store.
Keep out: what the files mean; records of resources (catalogue).
"""

from cleanroom_pipelines.storage.artifacts import ArtifactReference, ArtifactStore, Draft, Input, Manifest
from cleanroom_pipelines.storage.buckets import ObjectPlace
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.keys import InstallationKey
from cleanroom_pipelines.storage.vault import SeedVault

__all__ = [
    "ArtifactReference",
    "ArtifactStore",
    "Draft",
    "Home",
    "Input",
    "InstallationKey",
    "Manifest",
    "ObjectPlace",
    "SeedVault",
]
