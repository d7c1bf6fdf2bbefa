"""How a long operation runs: the engine it may use, who follows it, and when it stops.

Lives here: what every long operation is given.
Add here when all long operations need something more of their caller.
Keep out: opening the engine (opening), and what the operations do.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from cleanroom_pipelines.engine.base import EngineSettings
from cleanroom_pipelines.errors import CancelledError

Progress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and the stage in words."""

ShouldCancel = Callable[[], bool]
"""Asked between blocks; True ends the work with `CancelledError`."""


@dataclass(frozen=True)
class Runtime:
    """What a long operation is given besides its inputs.

    Args:
        engine: Memory, threads and scratch of the engine, and which engine it is.
        progress: Called with the share done and the stage; what it raises ends the operation.
        should_cancel: Asked between blocks and stages.
    """

    engine: EngineSettings = EngineSettings()  # noqa: RUF009 frozen
    progress: Progress | None = None
    should_cancel: ShouldCancel | None = None

    def tell(self, share: float, stage: str) -> None:
        """Report progress, and stop here if asked to.

        Raises:
            CancelledError: `should_cancel` said so.
        """
        self.check()
        if self.progress:
            self.progress(min(share, 1.0), stage)

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            CancelledError: `should_cancel` said so.
        """
        if self.should_cancel and self.should_cancel():
            raise CancelledError("The work was cancelled.")

    def part(self, start: float, end: float) -> Self:
        """The same for a part of the work, whose 0 to 1 is `start` to `end` of the whole."""
        progress = self.progress
        if progress is None:
            return self
        return replace(self, progress=lambda share, stage: progress(start + share * (end - start), stage))
