"""Contract: the settings, programs and files that the example of several hosts names exist, and all of its files
can be parsed.

journeys/test_hosts.py opens its storage for real. containers/walk.sh runs its containers, manually.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from cleanroom_pipelines.runs.installation import Settings

from ..architecture.tree import ROOT

EXAMPLE = ROOT / "data" / "example" / "hosts"
PAGE = ROOT / "cleanroom_pipelines" / "runs" / "HOSTS.md"
FILES = sorted(path for path in EXAMPLE.iterdir())


def commands(value: Any) -> list[list[str]]:
    """Every command in a YAML value."""
    if isinstance(value, list):
        return [found for one in value for found in commands(one)]
    if not isinstance(value, dict):
        return []
    own = [value[key] for key in ("command", "args") if isinstance(value.get(key), list)]
    return own + [found for one in value.values() for found in commands(one)]


@pytest.mark.parametrize("file", [*FILES, PAGE], ids=lambda file: file.name)
def test_every_named_setting_exists(file: Path) -> None:
    known = set(re.findall(r"CLEANROOM_[A-Z_]+", Settings.__doc__ or ""))
    assert set(re.findall(r"CLEANROOM_[A-Z_]+", file.read_text())) <= known


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml"])
def test_every_started_program_exists(name: str) -> None:
    for document in yaml.safe_load_all((EXAMPLE / name).read_text()):
        for command in commands(document):
            if "-m" in command:
                assert find_spec(command[command.index("-m") + 1]) is not None
            assert command[0] in {"python3", "cleanroom", "dagster-daemon", "dagster-webserver", "sh"}


def test_commented_launchers_are_valid_yaml() -> None:
    text = (EXAMPLE / "dagster.yaml").read_text()
    assert yaml.safe_load(text)["storage"]["postgres"]["postgres_url"] == {"env": "DAGSTER_POSTGRES_URL"}
    launchers = re.findall(r"^# run_launcher:\n(?:^#   .*\n)+", text, re.MULTILINE)
    told = [yaml.safe_load(re.sub(r"^# ", "", one, flags=re.MULTILINE))["run_launcher"] for one in launchers]
    assert [one["class"] for one in told] == ["DockerRunLauncher", "K8sRunLauncher"]
    # Neither launcher starts a run without an image.
    assert [one["config"].get("image") or one["config"].get("job_image") for one in told] == ["cleanroom"] * 2
    assert told[0]["config"]["container_kwargs"]["read_only"], "as the services of compose.yaml"
    made = {
        document["metadata"]["name"] for document in yaml.safe_load_all((EXAMPLE / "kubernetes.yaml").read_text())
    }
    named = told[1]["config"]
    assert {named["service_account_name"], *named["env_config_maps"], *named["env_secrets"]} <= made
    assert named["instance_config_map"] in (EXAMPLE / "kubernetes.yaml").read_text(), "said how it is made"


def test_page_names_every_example_file() -> None:
    assert set(re.findall(r"data/example/hosts/([A-Za-z.]+)\)", PAGE.read_text())) == {file.name for file in FILES}
