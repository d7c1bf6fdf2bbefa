"""Resident memory of this process: the largest so far, and the largest of a stage.

Lives here: reading and restarting the kernel's own measure.
Keep out: what the stages are (similarity), and showing it (defs).
"""

import resource
import sys
from pathlib import Path

_PROCESS = Path("/proc/self")
_before = [0]  # the largest of the time before the measure was last restarted


def restart_peak() -> bool:
    """Restart the measure of the largest memory; return whether the system allows this, as most Linuxes do."""
    _before[0] = process_peak_bytes()
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def stage_peak_bytes(*, is_restarted: bool) -> int:
    """Return the largest memory since `restart_peak`, or, if that was not allowed, the memory now."""
    return _bytes("VmHWM:" if is_restarted else "VmRSS:")


def process_peak_bytes() -> int:
    """Return the largest memory of this process so far."""
    return max(_before[0], _bytes("VmHWM:"))


def _bytes(name: str) -> int:
    try:
        fields = dict(line.split(maxsplit=1) for line in (_PROCESS / "status").read_text().splitlines())
        return int(fields[name].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # macOS gives bytes, others KiB
