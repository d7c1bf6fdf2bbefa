"""An installation's stored state: its folder (the home), keys, artifacts, seeds and export destinations.

Lives here: the only code that maps ids to paths, and the only code that writes artifacts.
Add here when something new is stored on disk or in an object store.
Keep out: the meaning of files; resource records (catalogue).
"""

from cleanroom_pipelines.storage.artifacts import ArtifactReference, ArtifactStore, Draft, Input, Manifest
from cleanroom_pipelines.storage.buckets import ObjectPlace
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.keys import InstallationKey
from cleanroom_pipelines.storage.vault import SeedVault
