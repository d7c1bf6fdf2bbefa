"""Contract: a home is created on first use, is accessible to its owner only, and reports why it cannot be
created."""

from pathlib import Path

import pytest

from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.storage import Home


def test_home_is_created_with_its_folders(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "new" / "home")
    parts = (home.accounts, home.inbox_seeds, home.artifacts, home.seeds, home.scratch_root)
    assert all(part.is_dir() and part.is_relative_to(home.root) for part in parts)
    assert all(part.stat().st_mode & 0o077 == 0 for part in parts)
    assert Home.open(home.root) == home


def test_file_instead_of_the_home_is_reported(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written") as caught:
        Home.open(tmp_path / "home")
    assert "CLEANROOM_HOME" in caught.value.remedy
