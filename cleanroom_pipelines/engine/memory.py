"""Resident memory of this process: its peak so far, and the peak of a stage.

Lives here: reading and resetting the kernel's own measurement.
Keep out: what the stages are (similarity), and showing it (defs).
"""

import resource
import sys
from pathlib import Path

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
