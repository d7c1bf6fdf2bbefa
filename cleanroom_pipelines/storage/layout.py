"""Mapping of ids to paths.

Lives here: the only code that converts an id into a path segment.
Keep out: user input; only the random hex of an id may become part of a path.
"""

import re

from cleanroom_pipelines.errors import UsageError

_PARTITION_KEY = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,39})-([0-9a-f]{12})")
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_VERSION = re.compile(r"[0-9]{4,}-[0-9a-f]{8}")


def path_of_partition(partition_key: str) -> str:
    """Return a partition's path segment: the random hex of its key `<slug>-<12 hex>`.

    Raises:
        UsageError: The key has another form.
    """
    match = _PARTITION_KEY.fullmatch(partition_key)
    if match is None:
        raise UsageError("The partition key is invalid.", remedy="Use a key that ends in twelve hex digits.")
    return match.group(1)


def is_partition_key(text: str) -> bool:
    """Whether a text has the form of a partition key of this project."""
    return _PARTITION_KEY.fullmatch(text) is not None


def path_of_asset(asset: str) -> str:
    """Return an asset's path segment: its name, which never comes from user input.

    Raises:
        UsageError: The name is not an asset name.
    """
    if not _NAME.fullmatch(asset):
        raise UsageError("The asset name is invalid.")
    return asset


def is_version(name: str) -> bool:
    """Whether a path segment is an artifact version."""
    return _VERSION.fullmatch(name) is not None


def path_of_version(version: str) -> str:
    """Return an artifact version's path segment, `<number>-<8 hex>`.

    Raises:
        UsageError: The version has another form.
    """
    if not is_version(version):
        raise UsageError("The artifact version is invalid.")
    return version
