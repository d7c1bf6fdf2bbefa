"""Contract: attacking participants guess right in at most 60 % of cases, plus three standard errors (PRIVACY.md).
With the policy off the same attacks succeed, so each is a real attack."""

from pathlib import Path

import pytest

from cleanroom_pipelines.benchmarks.attacks.guessing import NAMES, PLAYS, Play, attack, run_attacks
from cleanroom_pipelines.benchmarks.attacks.worlds import Templates
from cleanroom_pipelines.errors import UsageError

N_WORLDS = 20
_ALWAYS = "testing thresholds of rooms"


def _marked(play: Play) -> object:
    marks = () if play.names[0] == _ALWAYS else (pytest.mark.slow,)
    return pytest.param(play, id=play.names[0], marks=marks)


def _check(play: Play, folder: Path) -> None:
    results = {each.name: each for each in attack(Templates(folder), play, N_WORLDS)}
    assert sorted(results) == sorted(play.names)
    for result in results.values():
        assert result.is_within, result
        assert result.right_off > 0.9, result


class TestHalfOfThem:
    """A class each, so that two workers share them."""

    @pytest.mark.parametrize("play", [_marked(play) for play in PLAYS[::2]])
    def test_attacks_stay_within_the_bound_and_are_attacks(self, play: Play, tmp_path: Path) -> None:
        _check(play, tmp_path)


class TestTheOtherHalf:
    @pytest.mark.parametrize("play", [_marked(play) for play in PLAYS[1::2]])
    def test_attacks_stay_within_the_bound_and_are_attacks(self, play: Play, tmp_path: Path) -> None:
        _check(play, tmp_path)


def test_every_attack_has_one_name() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_unknown_attacks_and_odd_numbers_are_rejected() -> None:
    with pytest.raises(UsageError):
        run_attacks(20, "no such attack")
    with pytest.raises(UsageError):
        run_attacks(3)
