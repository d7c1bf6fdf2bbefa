"""Arguments of every long operation: engine settings, progress and cancellation callbacks; and its peak memory.

Lives here: `Runtime`, which holds these arguments; reading and resetting the kernel's measurement of memory.
Add here when all long operations need another argument.
Keep out: opening the engine (opening), and the operations themselves.
"""

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from cleanroom_pipelines.engine.base import EngineSettings
from cleanroom_pipelines.errors import CancelledError

Progress = Callable[[float, str], None]
"""Callback that receives the completed share of the work (0 to 1) and the name of the current stage."""

ShouldCancel = Callable[[], bool]
"""Callback that a long operation calls regularly; if it returns True, the operation raises `CancelledError`."""


@dataclass(frozen=True)
class Runtime:
    """Engine settings, progress callback and cancellation callback of a long operation.

    Args:
        engine: Engine settings.
        progress: Called with the share done and the stage; an exception ends the operation.
        should_cancel: Called between blocks and stages.
    """

    engine: EngineSettings = EngineSettings()  # noqa: RUF009 frozen
    progress: Progress | None = None
    should_cancel: ShouldCancel | None = None

    def report_progress(self, share: float, stage: str) -> None:
        """Report the progress; raise an error if the operation was cancelled.

        Raises:
            CancelledError: `should_cancel` returned True.
        """
        self.check()
        if self.progress:
            self.progress(min(share, 1.0), stage)

    def check(self) -> None:
        """Raise an error if the operation was cancelled.

        Raises:
            CancelledError: `should_cancel` returned True.
        """
        if self.should_cancel and self.should_cancel():
            raise CancelledError("The work was cancelled.")

    def part(self, start: float, end: float) -> Self:
        """Return a runtime for a part of the work, whose progress counts from `start` to `end` of the whole."""
        progress = self.progress
        if progress is None:
            return self
        return replace(self, progress=lambda share, stage: progress(start + share * (end - start), stage))


_PROCESS = Path("/proc/self")
_before = [0]  # the peak before the kernel's measurement was last reset


def restart_peak() -> bool:
    """Reset the peak-memory measurement; return whether the system allows this, as Linux usually does."""
    _before[0] = process_peak_bytes()
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def stage_peak_bytes(*, is_restarted: bool) -> int:
    """Return the peak memory since `restart_peak`; if the system did not allow the reset, the current memory."""
    return _bytes("VmHWM:" if is_restarted else "VmRSS:")


def process_peak_bytes() -> int:
    """Return this process's peak memory so far."""
    return max(_before[0], _bytes("VmHWM:"))


def _bytes(name: str) -> int:
    try:
        fields = dict(line.split(maxsplit=1) for line in (_PROCESS / "status").read_text().splitlines())
        return int(fields[name].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # macOS gives bytes, others KiB
