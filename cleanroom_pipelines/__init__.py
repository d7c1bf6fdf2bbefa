"""A self-hosted audience clean room on Dagster assets, DuckDB, pandera and LightGBM.

Scripts of Decentriq's Media API import `create_client` and `Key` from here; they are loaded when they are used.
"""

from typing import Any

_OF_MEDIA = ("Key", "create_client")


def __getattr__(name: str) -> Any:
    if name not in _OF_MEDIA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cleanroom_pipelines.media import connecting

    return getattr(connecting, name)
