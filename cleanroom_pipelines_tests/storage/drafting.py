"""Writers that tests start as processes of their own, to be killed or to run out of space."""

import itertools
import resource
import signal
import sys
from multiprocessing.synchronize import Event
from pathlib import Path

from cleanroom_pipelines.errors import StorageFullError
from cleanroom_pipelines.storage import ArtifactReference, ArtifactStore

PARTITION = "x-0123456789ab"
N_FILES, FILE_BYTES = 4, 50_000


def reference(number: int) -> ArtifactReference:
    return ArtifactReference("audience", PARTITION, f"{number:04d}-{number:08x}")


def content(number: int, name: str) -> bytes:
    return (f"{number} {name} ".encode() * FILE_BYTES)[:FILE_BYTES]


def write(store: ArtifactStore, number: int) -> None:
    with store.drafting(reference(number), code_version="1", data_version="d", created_at="now") as draft:
        for name in (f"file-{n}.bin" for n in range(N_FILES)):
            (draft.path / name).write_bytes(content(number, name))
            draft.n_rows[name] = number


def write_for_ever(root: Path, first: int, ready: Event) -> None:
    store = ArtifactStore(str(root), root)
    ready.set()
    for number in itertools.count(first):
        write(store, number)


def write_beyond_limit(root: Path) -> None:
    """Write one artifact under a limit on the size of a file; exit code 0 if that is told as it should be."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES // 2, FILE_BYTES // 2))
    try:
        write(ArtifactStore(str(root), root), 1)
    except StorageFullError:
        sys.exit(0)
    sys.exit(1)
