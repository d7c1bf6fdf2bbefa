"""What an attacker has: the published policy, and a participant's budget. What it has not is the key.

It knows the formula of the noise and everybody's match but one person's, and guesses by likelihood: no other way
of guessing from the same answers is right more often (Neyman and Pearson).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from cleanroom_pipelines.privacy import Released, ReleasePolicy, Releaser, question_key, spend
from cleanroom_pipelines.privacy.noise import noise_probability

Answer = int | None
POLICY = ReleasePolicy()


def key_of(number: int) -> bytes:
    """The secret key of a room."""
    return number.to_bytes(32, "big")


@cache
def chances(true_count: int, policy: ReleasePolicy = POLICY) -> Mapping[Answer, float]:
    """How likely each answer is, by the formula: added up over the noise, one by one."""
    found: dict[Answer, float] = defaultdict(float)
    reach = 60 * policy.scale
    for noise in range(-reach, reach + 1):
        noised = true_count + noise
        told = round(noised / policy.rounding) * policy.rounding if noised >= policy.threshold else None
        found[told] += noise_probability(policy.scale, noise)
    return dict(found)


def evidence(answer: Answer, with_x: int, without_x: int, policy: ReleasePolicy = POLICY) -> float:
    """How much an answer speaks for x: the logarithm of the ratio of its likelihoods."""
    return math.log(chances(with_x, policy)[answer] / chances(without_x, policy)[answer])


def success_of_one_answer(with_x: int, without_x: int, policy: ReleasePolicy = POLICY) -> float:
    """How often the best guess from one answer is right, exactly."""
    a, b = chances(with_x, policy), chances(without_x, policy)
    return sum(max(a.get(answer, 0.0), b.get(answer, 0.0)) for answer in {*a, *b}) / 2


def share_right(guesses: Iterable[tuple[float, bool]]) -> float:
    """How often guesses are right, from evidence and truth; no evidence either way is a coin, half right."""
    right = [0.5 if speaks == 0 else float((speaks > 0) == truth) for speaks, truth in guesses]
    return sum(right) / len(right)


@dataclass
class Room:
    """A room as one participant meets it: every question is paid for once and answered from the store.

    It stands in for the catalogue; the arithmetic is the product's.
    """

    releaser: Releaser
    spent: int = 0
    answers: dict[str, Released] = field(default_factory=dict)

    def size(self, true_count: int, question: str) -> Released:
        """Ask for a size."""
        key = question_key(self.releaser.data_version, question)
        if key not in self.answers:
            total = self.releaser.policy.budget_units
            self.spent = spend(total=total, spent=self.spent, cost=1)
            self.answers[key] = self.releaser.count(true_count, question=question)
        return self.answers[key]


@cache
def chances_of_a_row(n_matched: int, policy: ReleasePolicy = POLICY) -> Mapping[tuple[Answer, Answer], float]:
    """How likely each overlap row is: its size, and its matched ids, where every user comes with one id."""
    found: dict[tuple[Answer, Answer], float] = defaultdict(float)
    reach = 25 * policy.scale
    for noise in range(-reach, reach + 1):
        noised = n_matched + noise
        told = round(noised / policy.rounding) * policy.rounding if noised >= policy.threshold else None
        for ids, chance in chances(noised, policy).items():
            found[told, ids] += noise_probability(policy.scale, noise) * chance
    return dict(found)
