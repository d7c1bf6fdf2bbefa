"""Contract: the settings, programs and files that the example of several hosts names exist, all of its files can
be parsed, and the Kubernetes manifests conform to the schema of Kubernetes' API.

journeys/test_hosts.py opens its storage for real, journeys/test_nginx.py runs nginx with its configuration, and
server/test_metrics.py checks the board. containers/walk.sh runs its containers; it is started manually.
"""

import copy
import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cleanroom_pipelines.runs.installation import Settings

from ..architecture.tree import ROOT

EXAMPLE = ROOT / "data" / "example" / "hosts"
PAGE = ROOT / "cleanroom_pipelines" / "runs" / "HOSTS.md"
FILES = sorted(path for path in EXAMPLE.iterdir())
MANIFESTS = list(yaml.safe_load_all((EXAMPLE / "kubernetes.yaml").read_text()))
SCHEMA = json.loads((Path(__file__).parents[1] / "containers" / "kubernetes-1.37.json").read_text())


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
    named = set(re.findall(r"CLEANROOM_[A-Z_]+", file.read_text()))
    assert {name for name in named if not name.startswith("CLEANROOM_SECRET_")} <= known  # operators name secrets


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


def faults_of(manifest: dict[str, Any]) -> list[str]:
    """The places where a manifest violates the schema of its kind; unknown fields are violations."""
    kind = SCHEMA["kinds"][f"{manifest['apiVersion']} {manifest['kind']}"]
    schema = {"$ref": f"#/definitions/{kind}", "definitions": SCHEMA["definitions"]}
    return [error.json_path for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]


def test_manifests_conform_to_the_api_of_kubernetes() -> None:
    assert {manifest["metadata"]["name"]: faults_of(manifest) for manifest in MANIFESTS} == {
        manifest["metadata"]["name"]: [] for manifest in MANIFESTS
    }
    assert {f"{each['apiVersion']} {each['kind']}" for each in MANIFESTS} == set(SCHEMA["kinds"]), (
        "no more vendored"
    )


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "text for a number": lambda it: it["spec"].update(replicas="four"),
    "misspelt field": lambda it: it["spec"]["template"]["spec"].update(serviceAcountName="cleanroom"),
    "field at the wrong level": lambda it: it["spec"].update(containers=[]),
    "no selector": lambda it: it["spec"].pop("selector"),
    "container without a name": lambda it: it["spec"]["template"]["spec"]["containers"][0].pop("name"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_faulty_manifest_is_found(change: Callable[[dict[str, Any]], object]) -> None:
    manifest = copy.deepcopy(next(each for each in MANIFESTS if each["kind"] == "Deployment"))
    change(manifest)
    assert len(faults_of(manifest)) == 1


def test_names_within_the_manifests_agree() -> None:
    made = {(each["kind"], each["metadata"]["name"]) for each in MANIFESTS}
    text = json.dumps(MANIFESTS)
    for key, kind in {"configMapRef": "ConfigMap", "secretRef": "Secret"}.items():
        assert {(kind, name) for name in re.findall(rf'"{key}": {{"name": "([^"]+)"', text)} <= made
    assert {("PersistentVolumeClaim", name) for name in re.findall(r'"claimName": "([^"]+)"', text)} <= made
    assert {("ServiceAccount", name) for name in re.findall(r'"serviceAccountName": "([^"]+)"', text)} <= made
    for deployment in (each for each in MANIFESTS if each["kind"] == "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"] == labels


def test_page_names_every_example_file() -> None:
    assert set(re.findall(r"data/example/hosts/([A-Za-z.]+)\)", PAGE.read_text())) == {file.name for file in FILES}
