"""Contract: each setting is read from its variable; an error about a wrong one names the variable and never its
value. An installation opens its parts at the configured places."""

import contextlib
import dataclasses
from ipaddress import ip_network
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.runs.installation import Installation, Settings, parse_bytes

HOME = {"CLEANROOM_HOME": "/srv/cleanroom"}


def test_defaults_without_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({}) == Settings(tmp_path / "data")
    empty = {f"CLEANROOM_{name}": "" for name in ("HOME", "CATALOG_URL", "KEY_FILE", "MEMORY", "RETENTION_DAYS")}
    assert Settings.from_environment(empty) == Settings(tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("HOME", "/srv/cleanroom", "home", Path("/srv/cleanroom")),
        ("CATALOG_URL", "postgresql://host/db", "catalog_url", "postgresql://host/db"),
        ("CATALOG_URL", "sqlite:////tmp/catalog.db", "catalog_url", "sqlite:////tmp/catalog.db"),
        ("ARTIFACTS_URL", "gs://bucket/x", "artifacts_url", "gs://bucket/x"),
        ("ARTIFACTS_URL", "/srv/artifacts", "artifacts_url", "/srv/artifacts"),
        (
            "ARTIFACTS_URL",
            "s3://bucket/x?region=eu-central-1",
            "artifacts_url",
            "s3://bucket/x?region=eu-central-1",
        ),
        ("ENGINE_URL", "spark://master:7077", "engine_url", "spark://master:7077"),
        ("ENGINE_URL", "sc://connect:15002/;use_ssl=true", "engine_url", "sc://connect:15002/;use_ssl=true"),
        ("ENGINE_URL", "local[4]", "engine_url", "local[4]"),
        ("ENGINE_URL", "DuckDB", "engine_url", None),
        ("KEY_FILE", "/run/secrets/key", "key_file", Path("/run/secrets/key")),
        ("MEMORY", "8GB", "memory_bytes", 8 * 10**9),
        ("MEMORY", "1.5 GiB", "memory_bytes", 1_610_612_736),
        ("THREADS", "3", "threads", 3),
        ("SIZE_PROFILE", "aws", "size_profile", "aws"),
        ("SEED_FLOOR", "1", "seed_floor", 1),
        (
            "PRIVATE_NETWORKS",
            "172.17.0.0/16, fd00::/8",
            "private_networks",
            (ip_network("172.17.0.0/16"), ip_network("fd00::/8")),
        ),
        ("NOTIFY", "https://hooks.example.com/x", "notify", "https://hooks.example.com/x"),
        ("NOTIFY", "notify-send done", "notify", "notify-send done"),
        ("RETENTION_DAYS", "0.5", "retention_days", 0.5),
        ("RETENTION_DAYS", "0", "retention_days", 0.0),
    ],
)
def test_each_variable_sets_its_field(name: str, text: str, field: str, value: object) -> None:
    settings = Settings.from_environment(HOME | {f"CLEANROOM_{name}": text})
    assert settings == dataclasses.replace(Settings(Path("/srv/cleanroom")), **{field: value})


def test_secrets_are_read_from_variables_and_files_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("canary two\n")
    settings = Settings.from_environment(
        HOME
        | {
            "CLEANROOM_SECRET_OPS": "canary one",
            "CLEANROOM_SECRET_METRICS_FILE": str(tmp_path / "token"),
            "CLEANROOM_SECRET_EMPTY": "",
            "CLEANROOM_SECRET_lower": "x",
        }
    )
    assert settings.secrets == {"OPS": "canary one", "METRICS": "canary two"}
    assert "canary" not in repr(settings)


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    settings = Settings.from_environment({"CLEANROOM_HOME": "here", "CLEANROOM_KEY_FILE": "~/key"})
    assert settings.home == tmp_path / "here"
    assert settings.key_file == tmp_path / "me" / "key"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HOME", "~nosuchuser-7f3a/x"),
        ("CATALOG_URL", "canary"),
        ("CATALOG_URL", "mysql://canary:secret@host/db"),
        ("CATALOG_URL", "sqlite://"),
        ("ARTIFACTS_URL", "canary://bucket/x"),
        ("ARTIFACTS_URL", "s3://canary/x"),
        ("ENGINE_URL", "canary://host:1"),
        ("MEMORY", "canary"),
        ("MEMORY", "8 apples"),
        ("MEMORY", "1MB"),
        ("MEMORY", "-8GB"),
        ("MEMORY", "inf"),
        ("MEMORY", "nanGB"),
        ("THREADS", "0"),
        ("THREADS", "two"),
        ("THREADS", "1.5"),
        ("SIZE_PROFILE", "canary"),
        ("SEED_FLOOR", "0"),
        ("SEED_FLOOR", "-1"),
        ("RETENTION_DAYS", "-1"),
        ("SECRET_OPS_FILE", "/no/such/canary"),
        ("RETENTION_DAYS", "nan"),
        ("RETENTION_DAYS", "inf"),
        ("RETENTION_DAYS", "a month"),
    ],
)
def test_invalid_value_names_the_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"CLEANROOM_{name}") as caught:
        Settings.from_environment(HOME | {f"CLEANROOM_{name}": text})
    assert caught.value.remedy
    assert "canary" not in str(caught.value)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=12))
def test_memory_is_at_least_64_mb_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_bytes(text) >= 64 * 10**6


def test_process_environment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLEANROOM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CLEANROOM_THREADS", "1")
    installation = Installation.from_environment()
    assert installation.engine_settings.threads == 1
    assert installation.home.root == tmp_path / "home"


def test_parts_are_at_the_configured_locations(tmp_path: Path) -> None:
    settings = Settings(
        tmp_path / "home",
        catalog_url=f"sqlite:///{tmp_path / 'other.db'}",
        artifacts_url=str(tmp_path / "artifacts"),
        key_file=tmp_path / "keys" / "key",
    )
    installation = Installation(settings)
    _ = installation.catalog, installation.vault
    assert (tmp_path / "other.db").is_file()
    assert (tmp_path / "keys" / "key").is_file()
    assert not (tmp_path / "home" / "catalog.db").exists()
    assert not (tmp_path / "home" / "installation.key").exists()
    with mock.patch.object(Path, "home", side_effect=AssertionError):
        assert installation.store is installation.store
