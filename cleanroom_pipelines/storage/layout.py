"""Ids to paths.

Lives here: the only code that turns an id into part of a path.
Keep out: any text a user typed; only the random hex of an id ever reaches a path.
"""

import re

from cleanroom_pipelines.errors import UsageError

_PARTITION_KEY = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,39})-([0-9a-f]{12})")
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_VERSION = re.compile(r"[0-9]{4,}-[0-9a-f]{8}")


def path_of_partition(partition_key: str) -> str:
    """The path segment of a partition: the random hex of `<slug>-<12 hex>`.

    Raises:
        UsageError: The key is not of that form.
    """
    match = _PARTITION_KEY.fullmatch(partition_key)
    if match is None:
        raise UsageError("This is not a partition key of this project.", remedy="Keys end in twelve hex digits.")
    return match.group(1)


def is_partition_key(text: str) -> bool:
    """Whether a text has the form of a partition key of this project."""
    return _PARTITION_KEY.fullmatch(text) is not None


def path_of_asset(asset: str) -> str:
    """The path segment of an asset: its own name, which only code chooses.

    Raises:
        UsageError: The name is not of that form.
    """
    if not _NAME.fullmatch(asset):
        raise UsageError("This is not the name of an asset.")
    return asset


def is_version(name: str) -> bool:
    """Whether a path segment is that of an artifact version."""
    return _VERSION.fullmatch(name) is not None


def path_of_version(version: str) -> str:
    """The path segment of an artifact version: `<number>-<8 hex>`.

    Raises:
        UsageError: The version is not of that form.
    """
    if not is_version(version):
        raise UsageError("This is not a version of an artifact.")
    return version
