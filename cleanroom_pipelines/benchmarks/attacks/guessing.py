"""Guess a user's membership from published results, and measure how often guesses are right.

Lives here: the attacks by name, running them in worlds, the best guess, and the report.
Add here when an attack is added.
Keep out: the attackers' requests (playing).

The attacker knows the code and everything about all users except the victim's membership, and so knows the
noiseless result in both cases. The guess weights each number by the difference of these results divided by its
variance (the likelihood ratio of independent Gaussian numbers), and is "member" if the sum is above the median of
all worlds.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cleanroom_pipelines.benchmarks.attacks import aws, playing
from cleanroom_pipelines.benchmarks.attacks.worlds import Numbers, Templates, World, make_room, without_noise
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.privacy.accounting import PAIR_TENTHS, right_at_most
from cleanroom_pipelines.terms import CollaborationType

N_OFF = 2
"""Number of simulated installations without the policy; their results are deterministic."""

Make = Callable[[World], None]


@dataclass(frozen=True)
class Play:
    """A sequence of requests to a simulated installation; one or more attacks evaluate its results.

    Args:
        names: The attacks that use it.
        ask: Sends the requests and returns the numbers learned.
        template: Name and builder of the initial world, by whether the victim is in the base (or in the seed, if
            the victim is always in the base), and whether the policy is off.
    """

    names: tuple[str, ...]
    ask: Callable[[World, bool], playing.Found]
    template: Callable[[bool, bool], tuple[str, Make]]


def _rooms(name: str, *purposes: CollaborationType) -> Callable[[bool, bool], tuple[str, Make]]:
    return lambda is_in, is_off: (name, make_room(*purposes))


def _revealing(is_in: bool, is_off: bool) -> tuple[str, Make]:
    del is_in
    revealing = (CollaborationType.LOOKALIKE, CollaborationType.REMARKETING, CollaborationType.EXCLUSION)
    return _WITH_LOOKALIKES(False, False) if not is_off else ("revealing", make_room(*revealing))


def _base(is_in: bool, is_off: bool) -> tuple[str, Make]:
    del is_off
    return f"base {is_in}", make_room(with_victim=is_in)


def _earlier_base(is_in: bool, is_off: bool) -> tuple[str, Make]:
    del is_in, is_off
    return "earlier base", make_room(CollaborationType.LOOKALIKE, with_victim=False, n_left_out=2)


def _jobs(is_in: bool, is_off: bool) -> tuple[str, Make]:
    del is_in, is_off
    return "jobs", aws.make_model


_PLAIN = _rooms("plain")
_WITH_LOOKALIKES = _rooms("lookalikes", CollaborationType.LOOKALIKE)
_WITH_INSIGHTS = _rooms("insights", CollaborationType.INSIGHTS)
PLAYS = (
    Play(
        ("comparing statistics", "comparing lists", "comparing control groups, changes and refreshed lists"),
        playing.lookalikes,
        _WITH_LOOKALIKES,
    ),
    Play(("insights about a user with 50 interests",), playing.insights, _WITH_INSIGHTS),
    Play(("duplicating a seed type", "combining seed modes"), playing.duplicated, _revealing),
    Play(("audiences that only the victim fits", "drafts of such audiences"), playing.targets, _PLAIN),
    Play(tuple(trick.__name__.replace("_", " ") for trick in playing.TRICKS), playing.spending, _base),
    Play(("testing thresholds of rooms",), playing.thresholds, _base),
    Play(("retraining on a new base audience",), playing.retrained, _earlier_base),
    Play(("reading estimates, prices and errors", "reading the audit log"), playing.oracles, _WITH_LOOKALIKES),
    Play(("users planted by the publisher",), playing.planted, _PLAIN),
    Play(("comparing metrics of AWS jobs", "comparing exports of AWS jobs"), aws.metrics_and_exports, _jobs),
    Play(("testing thresholds of AWS jobs",), aws.threshold, _jobs),
    Play(("SQL seeds over two tables",), aws.two_tables, _jobs),
)
NAMES = tuple(name for play in PLAYS for name in play.names)


@dataclass(frozen=True)
class AttackResult:
    """Result of an attack.

    Args:
        name: The attack.
        n_worlds: Number of worlds; the victim is a member in half of them.
        right: Share of right guesses; ties count one half.
        right_off: The same with the policy off.
    """

    name: str
    n_worlds: int
    right: float
    right_off: float

    @property
    def error(self) -> float:
        """Standard error of the share of correct guesses, if half of the guesses are correct."""
        return 0.5 / math.sqrt(self.n_worlds)

    @property
    def is_within(self) -> bool:
        """Whether the share of correct guesses is at most the privacy bound plus three standard errors."""
        return self.right <= right_at_most(PAIR_TENTHS) + 3 * self.error

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self) | {"error": round(self.error, 4), "is_within": self.is_within}


def run_attacks(
    n_worlds: int, only: str | None = None, progress: Callable[[float, str], None] = lambda share, name: None
) -> list[AttackResult]:
    """Run the attacks.

    Args:
        n_worlds: Worlds per attack, an even number.
        only: Run only attacks whose names contain this text.
        progress: Called with the share done and the name of the attack.

    Raises:
        UsageError: No attack matches, or the number of worlds is odd.
    """
    if n_worlds < 2 or n_worlds % 2:
        raise UsageError(
            "The number of simulated installations is invalid.",
            remedy="Give an even number of at least 2, because the victim's data is in half of them.",
        )
    plays = [play for play in PLAYS if any(only is None or only in name for name in play.names)]
    if not plays:
        raise UsageError("Unknown attack.", remedy=f"Choose from: {', '.join(NAMES)}.")
    results = []
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder:
        templates = Templates(Path(folder))
        for number, play in enumerate(plays):

            def report_progress(share: float, number: int = number, play: Play = play) -> None:
                progress((number + share) / len(plays), play.names[0])

            found = attack(templates, play, n_worlds, report_progress)
            results += [each for each in found if only is None or only in each.name]
    return results


def report(results: Sequence[AttackResult]) -> str:
    """Format the results as a markdown table."""
    lines = ["| attack | installations | right | ± | policy off |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {each.name} | {each.n_worlds} | {each.right:.1%} | {each.error:.1%} | {each.right_off:.0%} |"
        for each in results
    ]
    return "\n".join(lines)


def attack(
    templates: Templates, play: Play, n_worlds: int, report_progress: Callable[[float], None] = lambda share: None
) -> list[AttackResult]:
    """Send an attack's requests to simulated installations ("worlds"), and return its results.

    Args:
        templates: Creates the worlds.
        play: The play.
        n_worlds: Number of worlds, even.
        report_progress: Called with the share done.
    """

    def run(is_in: bool, *, is_off: bool) -> playing.Found:
        with templates.opening(*play.template(is_in, is_off)) as world:
            return play.ask(world, is_in)

    def run_many(n: int, *, is_off: bool) -> list[playing.Found]:
        found = []
        for number in range(n):
            found.append(run(number % 2 == 1, is_off=is_off))
            report_progress(number / n)
        return found

    for is_in in (False, True):  # build all templates before noise is switched off
        for is_off in (False, True):
            with templates.opening(*play.template(is_in, is_off)):
                pass
    with without_noise():
        exact = [run(is_in, is_off=False) for is_in in (False, True)]
        same = play.template(True, True)[0] == play.template(True, False)[0]
        exact_off = exact if same else [run(is_in, is_off=True) for is_in in (False, True)]
        off = run_many(min(N_OFF, n_worlds), is_off=True)
    worlds = run_many(n_worlds, is_off=False)
    return [
        AttackResult(name, n_worlds, _share_right(_of(worlds, name), _of(exact, name)),
               _share_right(_of(off, name), _of(exact_off, name)))
        for name in play.names
    ]  # fmt: skip


def _of(found: Sequence[playing.Found], name: str) -> list[Numbers]:
    return [each[name] for each in found]


def _share_right(worlds: Sequence[Mapping[str, float]], exact: Sequence[Mapping[str, float]]) -> float:
    """Return the share of correct guesses; the victim's data is in every second world."""
    names = sorted({name for each in (*worlds, *exact) for name in each})
    if not names:
        return 0.5
    observed = np.array([[each.get(name, 0.0) for name in names] for each in worlds])
    without, with_victim = (np.array([each.get(name, 0.0) for name in names]) for each in exact)
    weights = (with_victim - without) / np.maximum(observed.var(axis=0), 1e-6)
    scores = np.round(observed @ weights, 9)
    middle = median(scores)
    is_in = np.arange(len(worlds)) % 2 == 1
    right = np.where(scores == middle, 0.5, (scores > middle) == is_in)
    return float(right.mean())
