"""Contract: a source names a place and never a password; what is not a known kind of place is rejected with one
sentence that does not quote it."""

import pytest

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.uploads.sources import parse_source
from cleanroom_pipelines.uploads.sources.locations import (
    DatabaseLocation,
    DeltaLocation,
    IcebergLocation,
    Location,
    ObjectsLocation,
)

SECRET = "hunter2"


@pytest.mark.parametrize("path", ["events.parquet", "/data/day=*/x.csv", "a:b/c", "s3:/x", "", "adbc", "x@3"])
def test_a_path_is_local(path: str) -> None:
    assert parse_source(path) is None


@pytest.mark.parametrize(
    ("source", "location"),
    [
        ("s3://b", ObjectsLocation("s3://b", "b", "")),
        ("s3://b/a/day=*/x.csv", ObjectsLocation("s3://b", "b", "a/day=*/x.csv")),
        ("s3://b/a/?region=eu-west-1", ObjectsLocation("s3://b", "b", "a", "?region=eu-west-1")),
        ("gs://b/a b.csv", ObjectsLocation("gs://b", "b", "a b.csv")),
        ("az://c/a", ObjectsLocation("az://c", "c", "a")),
        (
            "abfss://c@x.dfs.core.windows.net/a",
            ObjectsLocation("abfss://c@x.dfs.core.windows.net", "c", "a"),
        ),
        ("iceberg://shop/web.events", IcebergLocation("shop", "web.events", None)),
        ("iceberg://shop/a.b.c@42", IcebergLocation("shop", "a.b.c", 42)),
        ("delta+file:///data/t", DeltaLocation("file:///data/t", None)),
        ("delta+file:///data/t@0", DeltaLocation("file:///data/t", 0)),
        (
            "delta+s3://b/t@7?endpoint_override=h:1&scheme=http",
            DeltaLocation("s3://b/t", 7, "?endpoint_override=h:1&scheme=http"),
        ),
        (
            "delta+abfss://c@x.dfs.core.windows.net/t@7",
            DeltaLocation("abfss://c@x.dfs.core.windows.net/t", 7),
        ),
        ("adbc:shop?table=web.events", DatabaseLocation("SHOP", "table", "web.events")),
        ("adbc:SHOP?query=SELECT a\nFROM b?c=50%", DatabaseLocation("SHOP", "query", "SELECT a\nFROM b?c=50%")),
    ],
)
def test_a_known_place_is_parsed(source: str, location: Location) -> None:
    assert parse_source(source) == location


@pytest.mark.parametrize(
    "source",
    [
        f"postgresql://me:{SECRET}@host/db",
        f"postgresql://host/db?password={SECRET}",
        f"mysql://me:{SECRET}@host/db",
        f"ftp://me:{SECRET}@host/file",
        f"s3://key:{SECRET}@bucket/folder",
        f"s3://{SECRET}@bucket/folder",
        f"s3://bucket/folder?secret_access_key={SECRET}",
        f"gs://me:{SECRET}@bucket/folder",
        f"az://container/folder?sig={SECRET}",
        f"abfss://container:{SECRET}@x.dfs.core.windows.net/a",
        f"delta+s3://key:{SECRET}@bucket/table",
        f"delta+az://container/table?sig={SECRET}",
        f"delta+file:///table?{SECRET}",
        f"adbc:postgresql://me:{SECRET}@host/db",
        f"iceberg://shop/a.b?token={SECRET}",
        f"hdfs://host/{SECRET}",
        f"s3:///{SECRET}",
        f"s3://bucket/[{SECRET}]",
    ],
)
def test_a_secret_or_an_unknown_place_is_rejected_without_quoting_it(source: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(source)
    assert caught.value.remedy
    assert SECRET not in f"{caught.value} {caught.value.attributes}"


def test_a_query_is_not_shown() -> None:
    location = parse_source(f"adbc:shop?query=SELECT '{SECRET}'")
    assert location is not None
    assert location.shown == "adbc:SHOP?query=…"
