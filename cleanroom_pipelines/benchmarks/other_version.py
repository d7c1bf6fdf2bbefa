"""Run another version of this project, from its checkout, on the tasks of the quality benchmark.

Lives here: training and ranking by the other version's commands, and reading its ranking.
Add here when the commands `train` or `generate` of a version to compare with differ.
Keep out: tasks and measures (quality).

The other version runs in its own processes: two versions of one package cannot be imported together, and the
commands `train` and `generate` on files are the interface that has changed least.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.similarity.specs import TrainingTables, Window

_COMMANDS = "cleanroom_pipelines.cli.main"


@dataclass(frozen=True)
class OtherVersion:
    """Another version of this project.

    Args:
        checkout: Its folder, such as a git worktree; it must run in this Python environment.

    Raises:
        UsageError: The folder is not a checkout of this project.
    """

    checkout: Path

    def __post_init__(self) -> None:
        if not (self.checkout / "cleanroom_pipelines" / "cli" / "main.py").is_file():
            raise UsageError(
                "The folder to compare with is not a checkout of this project.",
                remedy="Create one with `git worktree add FOLDER COMMIT`.",
            )

    def train(self, tables: TrainingTables, window: Window, out: Path) -> None:
        """Train the other version's model into a new folder."""
        options = {
            "interactions": str(tables.interactions),
            "schema": str(tables.schema),
            "users": str(tables.users) if tables.users is not None else None,
            "users-schema": str(tables.users_schema) if tables.users is not None else None,
            "start": str(window.start) if window.start is not None else None,
            "end": str(window.end) if window.end is not None else None,
            "out": str(out),
        }
        self._run("train", {name: value for name, value in options.items() if value is not None})

    def scores(
        self, model: Path, user_ids: pa.Array, seed: npt.NDArray[np.int64], out: Path
    ) -> npt.NDArray[np.float64]:
        """Rank users for a seed, and return the negative rank of each user; seed and unranked users come last.

        Args:
            model: The folder that `train` wrote.
            user_ids: (N,) ids of all users.
            seed: Positions of the seed users among them.
            out: Folder to create.
        """
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        seed_file = out.with_suffix(".parquet")
        pq.write_table(pa.table({"user_id": user_ids.take(pa.array(seed))}), seed_file)
        self._run(
            "generate",
            {"model": str(model), "seed": str(seed_file), "out": str(out), "min-matching-seed-size": "1"},
        )
        ranked = pq.read_table(out / "ranked.parquet", columns=["user_id"])["user_id"]
        rank = pc.index_in(user_ids, value_set=ranked.combine_chunks()).fill_null(len(user_ids))
        return -np.asarray(rank.to_numpy(zero_copy_only=False), dtype=np.float64)

    def _run(self, command: str, options: dict[str, str]) -> None:
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        done = subprocess.run(  # noqa: S603 a version of our own module
            [sys.executable, "-m", _COMMANDS, command, *arguments],
            cwd=self.checkout,
            env=os.environ | {"PYTHONPATH": str(self.checkout)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0:
            raise UsageError(
                f"The other version's `{command}` failed with exit code {done.returncode}.",
                remedy="Run that command in its checkout to see the reason.",
            )
