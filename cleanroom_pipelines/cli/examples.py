"""The example files shipped with the package.

Lives here: finding them in a clone or an installed package, and copying them.
Keep out: what the demo does with it (demo.py).
"""

import shutil
from pathlib import Path

from cleanroom_pipelines.errors import CleanroomError, ConflictError, UsageError

_PACKAGE = Path(__file__).resolve().parents[1]
# In an installed package, and in a clone.
_PLACES = (_PACKAGE / "example", _PACKAGE.parent / "data" / "example")
DECLARATION = "cleanroom.yaml"


def example_folder() -> Path:
    """Find the example folder: a declaration, a data-room script, and settings for several hosts.

    Raises:
        CleanroomError: The folder is missing.
    """
    for folder in _PLACES:
        if (folder / DECLARATION).is_file():
            return folder
    raise CleanroomError("The example files are missing.", remedy="Install cleanroom-pipelines again.")


def copy_example(target: Path) -> None:
    """Copy the example to a new folder.

    Raises:
        ConflictError: The target exists already.
        UsageError: The folder cannot be created.
    """
    try:
        shutil.copytree(example_folder(), target, ignore=shutil.ignore_patterns("__pycache__"))
    except FileExistsError:
        raise ConflictError("The folder exists already.", remedy="Give the path of a new one.") from None
    except (OSError, shutil.Error) as error:
        raise UsageError(
            f"The example files cannot be written to this folder ({type(error).__name__}).",
            remedy="Give another path.",
        ) from None
