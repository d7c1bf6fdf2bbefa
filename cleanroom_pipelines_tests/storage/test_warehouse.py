"""Tables of an account's warehouse.

Contract: no link leads out of the folder of a table, nor of the folders of its partitions.
"""

from pathlib import Path

import pytest

from cleanroom_pipelines.errors import TrainingDataError
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.warehouse import reject_links, warehouse_table

ACCOUNT = "123456789012"


@pytest.mark.parametrize("below", ["", "day=1", "day=1/hour=2"])
def test_links_that_lead_out(tmp_path: Path, below: str) -> None:
    home = Home(tmp_path / "home")
    folder = warehouse_table(home, ACCOUNT, "shop", "orders")
    (folder / below).mkdir(parents=True)
    (folder / below / "1.csv").write_text("id\n1\n")
    (folder / below / "now.csv").symlink_to("1.csv")
    reject_links(home, ACCOUNT, folder)
    (tmp_path / "other.csv").write_text("id\n1\n")
    (folder / below / "2.csv").symlink_to(tmp_path / "other.csv")
    with pytest.raises(TrainingDataError, match="link"):
        reject_links(home, ACCOUNT, folder)


def test_a_table_that_does_not_exist_has_no_links(tmp_path: Path) -> None:
    home = Home(tmp_path)
    reject_links(home, ACCOUNT, warehouse_table(home, ACCOUNT, "shop", "orders"))
