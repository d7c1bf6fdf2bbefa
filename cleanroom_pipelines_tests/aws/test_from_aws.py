"""The migration page for AWS users.

Contract: it documents exactly the served operations and the status codes, in the order they are defined; each
setting, command and path in it exists, and each price is the one charged.
"""

import re
from pathlib import Path

import click

from cleanroom_pipelines import aws
from cleanroom_pipelines.aws.handlers import OPERATIONS
from cleanroom_pipelines.cli.main import cleanroom
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.privacy import COUNT, in_units
from cleanroom_pipelines.privacy.accounting import TENTHS
from cleanroom_pipelines.privacy.prices import figures_price
from cleanroom_pipelines.runs.installation import Settings
from cleanroom_pipelines.server.s3.api import OPERATIONS as S3_OPERATIONS
from cleanroom_pipelines.similarity.private_lookalikes import choose

from ..cases import assert_each

PAGE = (Path(aws.__file__).parent / "FROM_AWS.md").read_text(encoding="utf-8")


def first_cells(heading: str) -> list[str]:
    """Return the first cell of each row of the table below a heading."""
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]]


def test_every_operation_is_documented() -> None:
    told = [name for cell in first_cells("What is the same") for name in cell.split(", ")]
    assert sorted(told) == sorted(OPERATIONS)


def test_every_status_code_is_documented() -> None:
    assert [cell.strip("`") for cell in first_cells("When something fails")] == [code.value for code in StatusCode]


def test_every_setting_exists() -> None:
    named = set(re.findall(r"CLEANROOM_[A-Z_]+", PAGE))
    assert named
    known = set(re.findall(r"CLEANROOM_[A-Z_]+", Settings.__doc__ or ""))
    assert named <= known


def test_every_command_exists() -> None:
    def exists(typed: str) -> None:
        command: click.Command = cleanroom
        options: set[str] = set()
        for word in typed.split()[1:]:
            if isinstance(command, click.Group):
                assert word in command.commands
                command = command.commands[word]
                options = {name for parameter in command.params for name in parameter.opts}
            elif word.startswith("--"):
                assert word in options

    assert_each(exists, sorted(set(re.findall(r"(?:^\$ |`)(cleanroom [a-z -]+[a-z])", PAGE, re.MULTILINE))))


def test_the_prices_of_jobs_are_correct() -> None:
    told = PAGE.partition("for its figures: in all ")[2].partition("What was paid")[0]
    prices = re.findall(r"([\d.]+)(?: units)? at ([\d,]*\d)", told)
    assert len(prices) == 4

    def is_true(price: str, n_known: str) -> None:
        known = int(n_known.replace(",", ""))
        tenths = COUNT.tenths + round(choose(known).units * TENTHS) + figures_price(known).tenths
        assert float(price) == in_units(tenths)

    assert_each(is_true, prices)


def test_every_option_of_a_collaboration_is_documented() -> None:
    (create,) = [cleanroom.commands["collaboration"].commands["create"]]  # type: ignore[attr-defined]
    options = {name for parameter in create.params for name in parameter.opts if name.startswith("--")}
    assert {name for name in options if name in PAGE} == options - {"--json"}


def test_every_operation_of_s3_is_documented() -> None:
    part = PAGE.split("### Objects: S3\n")[1].split("\n## ")[0]
    assert set(S3_OPERATIONS) <= set(re.findall(r"\w+", part))
