"""Noise for counts: deterministic per question, unpredictable without the key.

Lives here: discrete Gaussian noise drawn from a keyed digest, its probabilities and its confidence intervals.
Add here when counts need noise of another form.
Keep out: threshold and rounding (release), prices (prices), the privacy bound (accounting).

Discrete Gaussian (Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy"):
P(k) ∝ exp(-k² / 2σ²) for every whole number k. A release whose value moves by Δ in L2 length when one person is
added or removed is Δ² / 2σ² zero-concentrated differentially private (their theorem 1.4; corollary for vectors).

A draw uses 256 bits of HMAC-SHA256: one bit is the sign; the other 255 are a uniform whole number that is looked
up in the tail probabilities, which are whole numbers too. Nothing is rounded, so every machine draws the same
noise, both signs are exactly equally likely, and the output has none of the gaps that come from the logarithm of a
float (Mironov 2012). The probabilities are exact to 2^-255.
"""

import hashlib
import hmac
import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

_BITS = 255
# Enough digits for 2^255 (77 digits) with room for the errors of exp, powers and sums of a million terms.
_DIGITS = 120
_PURPOSE = "noise of released counts, form 2"


def draw_noise(key: bytes, variance: Fraction, question: Sequence[str]) -> int:
    """Draw discrete Gaussian noise.

    Args:
        key: The pair's secret key.
        variance: σ² of the distribution, above 0; exact, so that every machine has the same table.
        question: The parts of the question; different lists are different questions even if they join to one text.

    Returns:
        A whole number, positive or negative; the same for the same arguments.
    """
    message = json.dumps([_PURPOSE, str(variance), *question]).encode()
    bits = int.from_bytes(hmac.new(key, message, hashlib.sha256).digest(), "big")
    is_negative, uniform = bits >> _BITS, bits & ((1 << _BITS) - 1)
    tails = _tails(variance)
    # The tails ascend; the magnitude is the number of tails above the uniform number.
    magnitude = len(tails) - bisect_right(tails, uniform)
    return -magnitude if is_negative else magnitude


def noise_probability(variance: Fraction, noise: int) -> float:
    """Return the probability of a noise value."""
    return math.exp(-noise * noise / (2 * float(variance))) / _normalizer(variance)


def noise_within(variance: Fraction, confidence: float) -> int:
    """Return the smallest m for which noise stays within ± m with at least the probability `confidence`.

    Args:
        variance: σ² of the distribution, above 0.
        confidence: 0 to 1, exclusive of 1.
    """
    inside, m = noise_probability(variance, 0), 0
    while inside < confidence:
        m += 1
        inside += 2 * noise_probability(variance, m)
    return m


@lru_cache(maxsize=256)
def _normalizer(variance: Fraction) -> float:
    """Return Σ exp(-k² / 2σ²) over all whole numbers k."""
    reach = math.ceil(40 * math.sqrt(variance)) + 2
    return 1 + 2 * math.fsum(math.exp(-k * k / (2 * float(variance))) for k in range(1, reach))


@lru_cache(maxsize=64)
def _tails(variance: Fraction) -> tuple[int, ...]:
    """Return P(|noise| ≥ m) · 2^255, rounded down, from the largest m with a result above 0 down to m = 1."""
    exact = Context(prec=_DIGITS)
    half = exact.divide(Decimal(variance.denominator), Decimal(2 * variance.numerator))
    step = exact.exp(exact.multiply(half, Decimal(-2)))  # a weight's ratio to the one before falls by this factor
    # Not `-half`, which would round to the precision of the thread's own context.
    ratio, weight = exact.exp(exact.minus(half)), Decimal(1)
    smallest = exact.power(Decimal(2), -_BITS - 40)
    weights = []
    while True:
        weight = exact.multiply(weight, ratio)
        if weight < smallest:
            break
        weights.append(weight)
        ratio = exact.multiply(ratio, step)
    tails, beyond = [], Decimal(0)
    for weight in reversed(weights):
        beyond = exact.add(beyond, weight)
        tails.append(beyond)
    scale = exact.divide(Decimal(2 << _BITS), exact.add(Decimal(1), exact.multiply(Decimal(2), beyond)))
    scaled = (int(exact.multiply(tail, scale)) for tail in tails)
    return tuple(tail for tail in scaled if tail > 0)
