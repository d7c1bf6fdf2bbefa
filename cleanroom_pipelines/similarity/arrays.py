"""Memory-mapped arrays on disk.

Lives here: creating such an array; a full disk raises an error instead of killing the process.
Keep out: the contents of the arrays.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np


def create_array(path: Path, dtype: type, shape: tuple[int, ...]) -> Any:
    """Create a `.npy` file and map it for writing.

    The file's disk space is allocated at once if the system supports that (Linux). Otherwise, writing to a mapped
    page on a full disk ends the process with SIGBUS.

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
