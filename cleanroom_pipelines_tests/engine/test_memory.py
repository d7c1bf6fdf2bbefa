"""Contract: the peak memory of a stage does not contain that of earlier ones, where the system can restart the
measure; the peak of the whole process does."""

from pathlib import Path

import pytest

from cleanroom_pipelines.engine import Runtime, runtime
from cleanroom_pipelines.similarity.training import Stages

_BYTES = 400_000_000


def measured() -> dict[str, int]:
    stages = Stages(Runtime())
    with stages.stage(0.0, "large"):
        bytearray(_BYTES)
    with stages.stage(0.5, "small"):
        pass
    return stages.peak_bytes


@pytest.mark.skipif(not runtime.restart_peak(), reason="this system cannot restart the measure")
def test_each_stage_has_its_own_peak() -> None:
    peaks = measured()
    assert peaks["large"] - peaks["small"] > _BYTES * 0.9
    assert runtime.process_peak_bytes() >= peaks["large"]


def test_without_the_right_to_restart_it_is_the_memory_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "clear_refs").mkdir()  # cannot be written
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  900 kB\nVmRSS:\t  300 kB\n")
    monkeypatch.setattr(runtime, "_PROCESS", tmp_path)
    assert measured() == {"large": 300 * 1024, "small": 300 * 1024}


def test_without_proc_it_is_the_peak_so_far(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runtime, "_PROCESS", tmp_path / "missing")
    monkeypatch.setattr(runtime, "_before", [0])
    assert measured()["small"] > 1_000_000
