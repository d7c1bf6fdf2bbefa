"""Arrays on disk that are written in place.

Lives here: making one so that a full disk is an error and not a signal.
Keep out: what the arrays hold.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np


def create_array(path: Path, dtype: type, shape: tuple[int, ...]) -> Any:
    """Create a `.npy` file of a shape and map it for writing.

    The whole file gets its place on the disk at once where the system can do that (Linux): without it a mapped
    page that finds no place ends the process with SIGBUS.

    Raises:
        OSError: The disk is full.
    """
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate") and path.stat().st_size:
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, 0, path.stat().st_size)
        finally:
            os.close(descriptor)
    return mapped
