"""Run commands in this process, as the shell would."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cleanroom_pipelines.cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Commands:
    """Runs `cleanroom` with arguments.

    Attributes:
        capture: Takes what it prints.
        patch: Names the arguments.
    """

    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def __call__(self, *arguments: str | Path) -> Ended:
        self.patch.setattr(sys, "argv", ["cleanroom", *map(str, arguments)])
        self.capture.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        said = self.capture.readouterr()
        return Ended(code, said.out, said.err)
