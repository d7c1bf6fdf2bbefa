"""The script that FROM_AWS.md prints, against a real `cleanroom serve`.

Contract: boto3 alone takes two accounts from their tables to a downloaded audience, with nothing but the endpoint
and the keys given; the operator creates accounts and a collaboration, and nothing else.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cleanroom_pipelines import aws
from cleanroom_pipelines_tests.server.server import add_party, installation_at, serving

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "data" / "example" / "aws_audience.py"
PAGE = Path(aws.__file__).parent / "FROM_AWS.md"


def test_the_page_prints_the_script_and_the_readme_names_it() -> None:
    assert f"```python\n{SCRIPT.read_text()}```" in PAGE.read_text(encoding="utf-8")
    assert "data/example/aws_audience.py" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_script_runs_as_printed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    installation = installation_at(home)
    parties = [add_party(installation, name) for name in ("publisher", "advertiser")]
    installation.catalog.parties.create_collaboration("spring", [party.account_id for party in parties])
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (printed,) = (block for block in blocks if "put_object" in block)
    script = tmp_path / "script.py"
    script.write_text(printed, encoding="utf-8")
    keys = [f"{party.key_id}:{party.secret}" for party in parties]
    with serving(home) as server:
        command = [sys.executable, str(script), server.url, *keys]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of the two organisations' privacy budget" in done.stdout
    assert done.stdout.endswith("Downloaded 300 users.\n")
    assert installation.audit.verify().ok
