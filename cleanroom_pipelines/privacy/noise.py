"""Noise for counts: the same for the same question, and nobody without the key can tell it.

Lives here: discrete Laplace noise drawn from a keyed digest, and how far it goes.
Add here when counts need noise of another form.
Keep out: threshold and rounding (release), the policy's numbers (policy).

Discrete Laplace with scale t (Ghosh, Roughgarden and Sundararajan 2009, "geometric mechanism"): with
p = exp(-1/t), P(k) = (1 - p) / (1 + p) · p^|k| for every whole number k. Hence P(|k| ≥ m) = 2 p^m / (1 + p) for
m ≥ 1, mean 0 and variance 2p / (1 - p)². A count that changes by 1 changes the probability of any answer by the
factor exp(1/t) at most.

A draw takes 256 bits of HMAC-SHA256: one is the sign, the others are a uniform whole number below 2^255 that is
looked up among the tail probabilities, kept as whole numbers too. Nothing is rounded on the way, so every machine
draws the same, positive and negative noise are equally likely bit for bit, and the gaps that a logarithm of a
float would leave (Mironov 2012) do not arise; the probabilities are right to 2^-255.
"""

import hashlib
import hmac
import json
import math
from collections.abc import Sequence
from decimal import Context, Decimal
from functools import cache

_BITS = 255
# Enough digits for 2^255 (77 digits) with room for the errors of exp and powers.
_DIGITS = 120
_PURPOSE = "noise of released counts, form 1"


def draw_noise(key: bytes, scale: int, question: Sequence[str]) -> int:
    """Draw discrete Laplace noise.

    Args:
        key: The room's secret key.
        scale: t of the distribution, at least 1.
        question: What is asked, as parts; another list of parts is another question, however they are joined.

    Returns:
        A whole number, positive or negative; the same for the same arguments.
    """
    message = json.dumps([_PURPOSE, scale, *question]).encode()
    bits = int.from_bytes(hmac.new(key, message, hashlib.sha256).digest(), "big")
    is_negative, uniform = bits >> _BITS, bits & ((1 << _BITS) - 1)
    magnitude = _n_above(_tails(scale), uniform)
    return -magnitude if is_negative else magnitude


def noise_probability(scale: int, noise: int) -> float:
    """How likely a certain noise is."""
    p = math.exp(-1 / scale)
    return (1 - p) / (1 + p) * p ** abs(noise)


def noise_within(scale: int, confidence: float) -> int:
    """The smallest m for which noise stays within ± m with at least this probability.

    Args:
        scale: t of the distribution, at least 1.
        confidence: 0 to 1, without 1.
    """
    p = math.exp(-1 / scale)
    # P(|k| ≤ m) = 1 - 2 p^(m + 1) / (1 + p)
    return max(0, math.ceil(math.log((1 - confidence) * (1 + p) / 2) / math.log(p) - 1))


@cache
def _tails(scale: int) -> tuple[int, ...]:
    """P(|noise| ≥ m) · 2^255 for m = 1, 2, …, falling, down to the last that is not 0."""
    exact = Context(prec=_DIGITS)
    p = exact.exp(exact.divide(Decimal(-1), Decimal(scale)))
    tail = exact.multiply(Decimal(1 << _BITS), exact.divide(exact.multiply(Decimal(2), p), exact.add(1, p)))
    tails = []
    while tail >= 1:
        tails.append(int(tail))
        tail = exact.multiply(tail, p)
    return tuple(tails)


def _n_above(tails: tuple[int, ...], uniform: int) -> int:
    """How many tails lie above a number; the tails fall."""
    low, high = 0, len(tails)
    while low < high:
        middle = (low + high) // 2
        if tails[middle] > uniform:
            low = middle + 1
        else:
            high = middle
    return low
