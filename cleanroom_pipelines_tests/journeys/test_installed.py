"""A release, installed without a clone.

Contract: wheel and sdist are built, the wheel from the sdist, and installed as in the README into an empty
environment. There the demo, the Dagster UI, `serve` with a job over HTTP and the data-room script work, in a home
with an unusual path. On every other supported Python on this machine, the packages of the lock file are installed
and the definitions load.

uv installs the packages of the lock file first, in a sixth of the time; the README's pip then finds them
installed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines_tests.server.server import (
    client,
    configured_parameters,
    dataset_parameters,
    installation_at,
    job_parameters,
    policy_for,
    settle,
    wait_until_ended,
)

from .. import worlds
from ..architecture.tree import PACKAGE, ROOT
from ..ports import free_port
from .developing import end_with_children

pytestmark = pytest.mark.slow

PROMISED = ("3.11", "3.12", "3.13")
PEOPLE = ("data@publisher.example", "crm@advertiser.example", "plans@agency.example")
ODD = "Q1?client=a 50% [x]"


@dataclass(frozen=True)
class Tools:
    """The tools that build a release and fill environments quickly."""

    folder: Path

    def python(self, *arguments: str | Path) -> None:
        run(self.folder / "bin" / "python", *arguments)

    def uv(self, *arguments: str | Path) -> None:
        settings = {"UV_CACHE_DIR": str(self.folder / "cache"), "UV_LINK_MODE": "hardlink"}
        if index := os.environ.get("PIP_INDEX_URL"):
            settings["UV_DEFAULT_INDEX"] = index
        if certificates := os.environ.get("PIP_CERT"):
            settings["SSL_CERT_FILE"] = certificates
        run(self.folder / "bin" / "uv", "-q", *arguments, environment=settings)

    def fill(self, environment: Path) -> None:
        """Install the packages of the lock file into an environment, checking the hash of each file."""
        self.uv(
            *("pip", "install", "--python", environment / "bin" / "python"),
            *("--require-hashes", "-r", ROOT / "requirements.lock"),
        )


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel; programs in it do not see the clone.

    Attributes:
        folder: Contains the files of the release and the environment, which is called `cleanroom`.
        home: The home of the demo.
        said: What the README's commands printed.
    """

    folder: Path
    home: Path
    said: str

    @property
    def programs(self) -> Path:
        return self.folder / "cleanroom" / "bin"

    def __call__(self, *arguments: str | Path, home: Path | None = None) -> str:
        """Run `cleanroom` with arguments."""
        return run(
            self.programs / "cleanroom",
            *arguments,
            cwd=self.folder,
            environment={"CLEANROOM_HOME": str(home or self.home)},
        )

    @contextmanager
    def started(self, *arguments: str, home: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run `cleanroom` with arguments until the `with` body ends."""
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [self.programs / "cleanroom", *arguments],
                cwd=self.folder,
                env=plain_environment() | {"CLEANROOM_HOME": str(home)},
                stdout=subprocess.PIPE if "serve" in arguments else stream,
                stderr=stream,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            end_with_children(process)
            if process.stdout is not None:
                process.stdout.close()


def plain_environment() -> dict[str, str]:
    """Return the environment variables of a user without a clone."""
    strange = ("CLEANROOM", "DAGSTER", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(strange)}


def run(*arguments: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed."""
    ended = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd or tempfile.gettempdir(),  # never the clone, whose package would be found first
        env=plain_environment() | (environment or {}),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return ended.stdout


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    made = Tools(tmp_path_factory.mktemp("tools"))
    run(sys.executable, "-m", "venv", made.folder)
    made.python("-m", "pip", "install", "-q", "build", "uv")
    return made


@pytest.fixture(scope="module")
def release(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel, sdist and lock file."""
    folder = tmp_path_factory.mktemp("release")
    tools.python("-m", "build", "--outdir", folder, ROOT)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        (name,) = (name for name in archive.getnames() if name.endswith("/requirements.lock"))
        stream = archive.extractfile(name)
        assert stream is not None
        (folder / "requirements.lock").write_bytes(stream.read())
    return folder


@pytest.fixture(scope="module")
def installed(release: Path, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The README's commands for a release, run word for word."""
    home = tmp_path_factory.mktemp("of a release") / ODD / "home"
    run(sys.executable, "-m", "venv", release / "cleanroom")
    tools.fill(release / "cleanroom")
    said = run("bash", "-euc", release_commands(), cwd=release, environment={"CLEANROOM_HOME": str(home)})
    return Installed(release, home, said)


def release_commands() -> str:
    blocks = re.findall(r"^```console\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if "cleanroom_pipelines-*.whl" in block)
    return re.sub(r"^\$ ", "", block, flags=re.MULTILINE)


def test_a_release_contains_the_package_and_the_example(release: Path) -> None:
    with zipfile.ZipFile(next(release.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    kept = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    wanted = {path.relative_to(ROOT).as_posix() for path in kept}
    example = ROOT / "data" / "example"
    files = {path for path in example.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    wanted |= {f"cleanroom_pipelines/example/{path.relative_to(example).as_posix()}" for path in files}
    assert names == wanted


def test_the_demo_runs_without_a_clone(installed: Installed) -> None:
    assert "Took" in installed.said
    assert "Quality of the ranking" in installed.said
    where = run(installed.programs / "python", "-c", "import cleanroom_pipelines as c; print(c.__file__)")
    assert Path(where.strip()).is_relative_to(installed.folder / "cleanroom" / "lib")
    above = [folder / "pyproject.toml" for folder in (installed.folder, *installed.folder.parents)]
    assert not any(file.exists() for file in above)
    assert {row["status"] for row in json.loads(installed("status", "--json"))} == {"ACTIVE"}
    run(installed.programs / "python", "-m", "pip", "check")


def test_the_example_is_installed(installed: Installed, tmp_path: Path) -> None:
    names = {path.name for path in (installed.folder / "example").iterdir()}
    assert names == {path.name for path in (ROOT / "data" / "example").iterdir()} - {"__pycache__"}
    shutil.copytree(installed.home / "demo", tmp_path / "tables")
    shutil.copy(installed.folder / "example" / "cleanroom.yaml", tmp_path / "tables")
    said = installed("apply", "--dry-run", tmp_path / "tables" / "cleanroom.yaml", home=tmp_path / "home")
    assert said.count("would create") == 6


def test_the_ui_answers_and_shows_every_asset(installed: Installed, tmp_path: Path) -> None:
    port = free_port()
    question = json.dumps({"query": "{ assetNodes { assetKey { path } } }"}).encode()
    log = tmp_path / "dev.log"
    with installed.started("dev", "--port", str(port), home=installed.home, log=log) as process:

        def assets() -> list[Any]:
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/graphql", question, {"content-type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return list(json.load(answer)["data"]["assetNodes"])
            except OSError:
                return []

        shown = worlds.wait_until(assets, seconds=300, what="the Dagster UI", every=0.5)
    wanted = json.loads((ROOT / "cleanroom_pipelines_tests" / "shell" / "graph.json").read_text())["assets"]
    assert {asset["assetKey"]["path"][-1] for asset in shown} == set(wanted)


def test_serve_does_jobs_over_http_and_a_whole_data_room(installed: Installed, tmp_path: Path) -> None:
    home = tmp_path / ODD / "home"
    parties = settle(installation_at(home))
    tokens = []
    for email in PEOPLE:
        installed("user", "create", email, home=home)
        tokens.append(json.loads(installed("token", "issue", email, "--json", home=home))["token"])
    log = tmp_path / "serve.log"
    with installed.started("serve", "--port", "0", home=home, log=log) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        assert url.startswith("http://"), log.read_text(errors="replace")[-2000:]
        publisher, advertiser = client(url, parties.publisher), client(url, parties.advertiser)
        dataset = publisher.create_training_dataset(**dataset_parameters(parties.publisher))
        model = publisher.create_audience_model(name="model", trainingDatasetArn=dataset["trainingDatasetArn"])
        trained = wait_until_ended(
            lambda: publisher.get_audience_model(audienceModelArn=model["audienceModelArn"])
        )
        assert trained["status"] == "ACTIVE", trained
        parameters = configured_parameters(parties.publisher, model["audienceModelArn"])
        configured = publisher.create_configured_audience_model(**parameters)["configuredAudienceModelArn"]
        publisher.put_configured_audience_model_policy(
            configuredAudienceModelArn=configured,
            configuredAudienceModelPolicy=policy_for(configured, parties.advertiser.account_id),
        )
        job = advertiser.start_audience_generation_job(**job_parameters(parties.advertiser, configured))
        arn = job["audienceGenerationJobArn"]
        ended = wait_until_ended(lambda: advertiser.get_audience_generation_job(audienceGenerationJobArn=arn))
        assert ended["status"] == "ACTIVE", ended
        script = installed.folder / "example" / "data_room.py"
        walked = run(installed.programs / "python", script, url, *tokens, cwd=tmp_path)
    assert walked.endswith("done\n")


def test_every_supported_python_on_this_machine_loads_the_definitions(
    release: Path, tools: Tools, tmp_path: Path
) -> None:
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in PROMISED
    (wheel,) = release.glob("*.whl")
    load = "from cleanroom_pipelines.definitions import defs; print(len(defs().resolve_all_asset_specs()))"
    n_assets = int(run(sys.executable, "-W", "ignore", "-c", load, cwd=tmp_path))
    for version, python in other_pythons().items():
        folder = tmp_path / version
        tools.uv("venv", "--python", python, folder)
        tools.fill(folder)
        tools.uv("pip", "install", "--python", folder / "bin" / "python", "--no-deps", wheel)
        assert "version 0.1.0" in run(folder / "bin" / "cleanroom", "--version", cwd=tmp_path)
        assert int(run(folder / "bin" / "python", "-W", "ignore", "-c", load, cwd=tmp_path)) == n_assets, version
        shutil.rmtree(folder)


def other_pythons() -> dict[str, Path]:
    """Return the supported Pythons on this machine, except the one that runs this test, by version."""
    found: dict[str, Path] = {}
    places = [Path(name) for name in os.environ["PATH"].split(os.pathsep)]
    places += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    for version in PROMISED:
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            continue
        for python in (place / f"python{version}" for place in places):
            # a shim may stand for a version that is not there
            if (
                python.exists()
                and subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0
            ):
                found[version] = python
                break
    return found
