"""What an attacker has: the published policy, and a pair's whole budget, but not the key.

The attacker knows the formula of the noise and everyone's data except one person's, and guesses by likelihood: no
other way of guessing from the same answers is right more often (Neyman and Pearson).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from cleanroom_pipelines.privacy import (
    COUNT,
    PAIR_TENTHS,
    Price,
    Released,
    ReleasePolicy,
    Releaser,
    budget_spent,
    question_key,
)

Answer = int | None
POLICY = ReleasePolicy()
BARE = ReleasePolicy(threshold=1, rounding=1)
HARDLY_ANY_NOISE = Price(15_000)
"""A count at σ = 0.5."""


def key_of(number: int) -> bytes:
    """The secret key of a pair."""
    return number.to_bytes(32, "big")


@cache
def noise_of(price: Price = COUNT) -> tuple[tuple[int, float], ...]:
    """Return all possible noise values with their probabilities, computed independently from the formula."""
    variance = float(price.variance)
    reach = math.ceil(12 * math.sqrt(variance)) + 2
    weights = {noise: math.exp(-(noise**2) / (2 * variance)) for noise in range(-reach, reach + 1)}
    total = math.fsum(weights.values())
    return tuple((noise, weight / total) for noise, weight in weights.items())


@cache
def chances(true_count: int, policy: ReleasePolicy = POLICY, price: Price = COUNT) -> Mapping[Answer, float]:
    """Return the probability of each answer, by summing over all noise values."""
    found: dict[Answer, float] = defaultdict(float)
    for noise, chance in noise_of(price):
        noised = true_count + noise
        told = round(noised / policy.rounding) * policy.rounding if noised >= policy.threshold else None
        found[told] += chance
    return dict(found)


@cache
def evidence(
    answer: Answer, with_x: int, without_x: int, policy: ReleasePolicy = POLICY, price: Price = COUNT
) -> float:
    """Return how much an answer speaks for x: the logarithm of the ratio of its likelihoods."""
    likely = [chances(n, policy, price).get(answer, 0.0) for n in (with_x, without_x)]
    return math.log(max(likely[0], 1e-300) / max(likely[1], 1e-300))


def success_of_one_answer(
    with_x: int, without_x: int, policy: ReleasePolicy = POLICY, price: Price = COUNT
) -> float:
    """Return how often the best guess from one answer is right, exactly."""
    a, b = chances(with_x, policy, price), chances(without_x, policy, price)
    return sum(max(a.get(answer, 0.0), b.get(answer, 0.0)) for answer in {*a, *b}) / 2


def success_of_answers(n: int, price: Price = COUNT) -> float:
    """Return exactly how often the best guess from n counts is right, before thresholds and rounding.

    Each count contains x or not; the evidence is linear in their sum, whose distribution is computed exactly.
    """
    size = n + 24 * math.ceil(math.sqrt(n * price.variance))  # modulo: what lies beyond adds to nothing
    places, likely = zip(*noise_of(price), strict=True)
    one = np.bincount(np.array(places) % size, likely, minlength=size)
    total = np.maximum(np.fft.irfft(np.fft.rfft(one) ** n, size), 0.0)
    return float(np.maximum(total, np.roll(total, n)).sum() / 2)


def share_right(guesses: Iterable[tuple[float, bool]]) -> float:
    """Return how often guesses are right, given evidence and truth; without evidence, in half of cases."""
    right = [0.5 if speaks == 0 else float((speaks > 0) == truth) for speaks, truth in guesses]
    return sum(right) / len(right)


def within_chance(bound: float, n_guesses: int) -> float:
    """Return the limit for a measured success rate: the bound of the true one plus three standard errors."""
    return bound + 3 * math.sqrt(bound * (1 - bound) / n_guesses)


@dataclass
class Room:
    """A room as its readers see it: every question is paid for once, and then answered from the store.

    It replaces the catalogue; the arithmetic is the product's.
    """

    releaser: Releaser
    price: Price = COUNT
    total: int = PAIR_TENTHS
    spent: int = 0
    answers: dict[str, Released] = field(default_factory=dict)

    def size(self, true_count: int, question: str) -> Released:
        """Request a size."""
        key = question_key(self.releaser.content, question, self.price.tenths)
        if key not in self.answers:
            if self.spent + self.price.tenths > self.total:
                raise budget_spent(total=self.total, spent=self.spent, cost=self.price.tenths)
            self.spent += self.price.tenths
            self.answers[key] = self.releaser.count(true_count, question=question, price=self.price)
        return self.answers[key]
