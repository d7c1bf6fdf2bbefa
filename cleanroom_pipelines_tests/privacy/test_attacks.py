"""Contract: contracts/media.md section 5, and the issue's "privacy tests that attack".

The attacker knows everything but one person's match. Every attack is also shown to work where the policy is
weaker. Whether x matches is told in half of the rounds each, so 50 % is a coin.

What the budget comes to. One answer tells membership with 52.5 % at most. A participant who spends all 100 units
on sets that differ in x and little else is right in 57 % if it compares pairs, in 64 % if it averages counts of
which it knows all but x, and in 69 % with the likelihood of every single answer, which no use of 100 independent
draws of this noise exceeds. The last is what a larger scale or a smaller budget would lower.
"""

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cleanroom_pipelines.audiences.canonical import canonical
from cleanroom_pipelines.audiences.definitions import (
    BaseRef,
    Combinator,
    CombineOperator,
    CustomRef,
    Definition,
    Filter,
    FilterOperator,
    Filters,
    MatchOperator,
    RuleBased,
    SeedRef,
)
from cleanroom_pipelines.audiences.overlap import OverlapRow, overlap_statistics
from cleanroom_pipelines.privacy import BudgetSpentError, ReleasePolicy, Releaser, cost_of_rows
from cleanroom_pipelines.privacy.noise import noise_probability

from ..audiences.plain_rooms import PlainRoom
from .attacking import (
    POLICY,
    Room,
    chances,
    chances_of_a_row,
    evidence,
    key_of,
    share_right,
    success_of_one_answer,
)

WEAK = ReleasePolicy(scale=1, rounding=1)
# What the contract forbids: hardly any noise, and the number of users that a seed must have as threshold.
ORACLE = ReleasePolicy(scale=1, threshold=25, rounding=1)


# ---- one question


def guess_once(n_known: int, policy: ReleasePolicy, n_rounds: int) -> float:
    guesses = []
    for number in range(n_rounds):
        releaser = Releaser(key_of(number), "v", False, policy)
        for x_matches in (True, False):
            answer = releaser.count(n_known + x_matches, question=f"{n_known} known and x, {x_matches}").value
            guesses.append((evidence(answer, n_known + 1, n_known, policy), x_matches))
    return share_right(guesses)


@pytest.mark.parametrize("n_known", [24, 39, 44, 54, 200])
def test_the_threshold_is_no_oracle(n_known: int) -> None:
    assert guess_once(n_known, POLICY, 200) <= 0.60, "as the issue asks"
    assert guess_once(n_known, POLICY, 3_000) <= 0.545
    assert success_of_one_answer(n_known + 1, n_known) <= 0.5251, "exactly, over all answers"


def test_the_threshold_attack_works_where_there_is_hardly_any_noise() -> None:
    assert guess_once(24, ORACLE, 200) > 0.65
    assert success_of_one_answer(25, 24, ORACLE) > 0.7


def test_audiences_that_differ_by_one_user_have_nearly_the_same_answers() -> None:
    bound = np.exp(1 / POLICY.scale) * (1 + 1e-9)

    def ratios(n: int) -> list[float]:
        a, b = chances(n), chances(n + 1)
        return [a[answer] / b[answer] for answer in a if a[answer] > 1e-15]

    sizes = [*range(60), 104, 105, 1_000, 1_005]
    assert [n for n in sizes if not all(1 / bound <= ratio <= bound for ratio in ratios(n))] == []


def test_the_formula_of_the_attacker_is_what_the_releaser_does() -> None:
    for n in (38, 45, 200):
        releaser = Releaser(key_of(n), "v", False)
        answers = [releaser.count(n, question=f"{number}").value for number in range(20_000)]
        for answer, chance in chances(n).items():
            assert abs(answers.count(answer) / 20_000 - chance) < 4.5 * np.sqrt(chance / 20_000) + 1e-4


# ---- the whole budget

Guess = Callable[[list[int | None], list[int | None], int, ReleasePolicy], float]


def by_pairs(with_x: list[int | None], without_x: list[int | None], n: int, policy: ReleasePolicy) -> float:
    """Compare sets that hold x with sets that do not."""
    return mean(with_x) - mean(without_x) - 0.5


def by_mean(with_x: list[int | None], without_x: list[int | None], n: int, policy: ReleasePolicy) -> float:
    """Average sets that hold x, knowing all others' matches."""
    return mean(with_x) - n - 0.5


def by_likelihood(with_x: list[int | None], without_x: list[int | None], n: int, policy: ReleasePolicy) -> float:
    """Weigh every answer, knowing all others' matches."""
    return sum(evidence(answer, n + 1, n, policy) for answer in with_x)


def mean(answers: list[int | None]) -> float:
    return sum(answer or 0 for answer in answers) / len(answers)


def guess_with_the_whole_budget(
    guess: Guess, share_with_x: float, n_known: int, n_rounds: int, policy: ReleasePolicy = POLICY
) -> float:
    guesses = []
    n_with = int(share_with_x * policy.budget_units)
    for number in range(n_rounds):
        for x_matches in (True, False):
            room = Room(Releaser(key_of(number), f"{x_matches}", False, policy))
            answers: dict[bool, list[int | None]] = {True: [], False: []}
            for asked in range(policy.budget_units):
                holds_x = asked < n_with
                question = f"the known without the {asked}th, {'and x' if holds_x else ''}"
                answers[holds_x].append(room.size(n_known + (holds_x and x_matches), question).value)
            assert room.spent == policy.budget_units
            with pytest.raises(BudgetSpentError):
                room.size(n_known, "one more")
            guesses.append((guess(answers[True], answers[False], n_known, policy), x_matches))
    return share_right(guesses)


@pytest.mark.parametrize(
    ("guess", "share_with_x", "limit"),
    # The last is the bound of the noise itself; see the first lines.
    [(by_pairs, 0.5, 0.60), (by_mean, 1.0, 0.65), (by_likelihood, 1.0, 0.70)],
)
def test_near_identical_sets_average_away_little_noise(guess: Guess, share_with_x: float, limit: float) -> None:
    # At 200 users rounding costs the attacker something, at 205 nothing.
    found = [guess_with_the_whole_budget(guess, share_with_x, n_known, 600) for n_known in (200, 205)]
    assert sum(found) / 2 <= limit


@pytest.mark.parametrize(("guess", "share_with_x"), [(by_pairs, 0.5), (by_mean, 1.0), (by_likelihood, 1.0)])
def test_averaging_works_where_there_is_hardly_any_noise(guess: Guess, share_with_x: float) -> None:
    assert guess_with_the_whole_budget(guess, share_with_x, 204, 40, WEAK) > 0.95


def test_more_budget_would_tell_more() -> None:
    more = ReleasePolicy(budget_units=2_000)
    assert guess_with_the_whole_budget(by_mean, 1.0, 205, 40, more) > 0.85


def test_answers_that_are_asked_for_again_average_away_nothing() -> None:
    room = Room(Releaser(key_of(1), "v", False))
    assert len({room.size(205, "the same").value for _ in range(1_000)}) == 1
    assert room.spent == 1


# ---- overlap rows, which tell two numbers for one unit


def information(with_x: Mapping[Any, float], without_x: Mapping[Any, float]) -> float:
    """What an answer tells on average (Kullback and Leibler); it adds up over independent answers."""
    shared = [answer for answer in with_x if without_x.get(answer, 0.0) > 1e-12]
    return sum(with_x[answer] * math.log(with_x[answer] / without_x[answer]) for answer in shared)


def test_an_overlap_row_tells_no_more_than_one_draw() -> None:
    draws = {(noise,): noise_probability(10, noise) for noise in range(-300, 300)}
    one_draw = information(draws, {(noise + 1,): chance for (noise,), chance in draws.items()})
    for n in (24, 39, 44, 104):
        assert information(chances_of_a_row(n + 1), chances_of_a_row(n)) <= one_draw * 1.001

    def with_noise_of_its_own(n: int) -> dict[Any, float]:
        return {(size, ids): p * q for size, p in chances(n).items() for ids, q in chances(n).items()}

    assert information(with_noise_of_its_own(105), with_noise_of_its_own(104)) > 1.5 * one_draw


# ---- the whole chain: files, query, release

N_KNOWN, N_ROUNDS = 80, 60


def attacked_room(n_known: int, n_rounds: int, n_sets: int, n_junk: int) -> PlainRoom:
    """Seed audiences of n known ids, half of them with x, who matches in half of the rounds; and junk.

    Types are named "round, x matches, number of the set"; even sets hold x.
    """
    known = [f"k{number}" for number in range(n_known + n_sets)]
    ids = [*known, "x"]
    pairs = [
        (digest, f"{number} {x_matches} {at}")
        for number in range(n_rounds)
        for x_matches in (1, 0)
        for at in range(n_sets)
        for digest in (
            *known[at : at + n_known],
            *(f"j{junk}" for junk in range(n_junk)),
            *(["x" if x_matches else "nobody"] if at % 2 == 0 else []),
        )
    ]
    return PlainRoom(
        pd.DataFrame({"user_id": ids, "age": None, "gender": None, "is_relevant": True}),
        pd.DataFrame({"user_id": [], "segment": []}),
        pd.DataFrame({"digest": ids, "user_id": ids}),
        pd.DataFrame(pairs, columns=["digest", "audience_type"]),
    )


Rows = dict[tuple[int, int, int], OverlapRow]


def rows_of(room: PlainRoom, folder: Path, *policies: ReleasePolicy) -> list[Rows]:
    with room.opened(folder) as relations:
        releasers = [Releaser(key_of(7), "v", False, policy) for policy in policies]
        answers = [overlap_statistics(relations, releaser).rows for releaser in releasers]
    return [{_set_of(row.audience_type): row for row in rows} for rows in answers]


def _set_of(audience_type: str) -> tuple[int, int, int]:
    number, x_matches, at = audience_type.split()
    return int(number), int(x_matches), int(at)


def guess_from_rows(rows: Rows, policy: ReleasePolicy) -> float:
    guesses = []
    for number in range(N_ROUNDS):
        for x_matches in (1, 0):
            mine = [rows[number, x_matches, at] for at in range(100)]
            assert cost_of_rows(len(mine)) == policy.budget_units
            sizes = [row.as_dict(with_own_counts=True)["overlap_size"] for row in mine]
            guesses.append((by_pairs(sizes[::2], sizes[1::2], N_KNOWN, policy), bool(x_matches)))
    return share_right(guesses)


def test_the_whole_budget_spent_on_overlap_rows_tells_little(tmp_path: Path) -> None:
    answers, weak_answers = rows_of(attacked_room(N_KNOWN, N_ROUNDS, 100, 0), tmp_path, POLICY, WEAK)
    assert guess_from_rows(answers, POLICY) <= 0.65
    assert guess_from_rows(weak_answers, WEAK) > 0.9


def guess_threshold_from_rows(rows: Rows, policy: ReleasePolicy) -> float:
    a, b = chances_of_a_row(25, policy), chances_of_a_row(24, policy)
    guesses = []
    for (_, x_matches, _), row in rows.items():
        assert row.n_seed_ids == 100
        seen = row.overlap.value, None if row.match_rate is None else round(row.match_rate * 100)
        guesses.append((math.log(a[seen] / b[seen]), bool(x_matches)))
        assert row.as_dict(with_own_counts=True)["is_empty"] == (row.overlap.value is None)
    assert len(guesses) == 400
    return share_right(guesses)


def test_24_known_ids_and_x_in_a_seed_audience_tell_little_of_x(tmp_path: Path) -> None:
    # 200 times with x and 200 times without; junk so that the match rate is not cut off at 1.
    answers, weak_answers = rows_of(attacked_room(24, 200, 1, 75), tmp_path, POLICY, ORACLE)
    assert guess_threshold_from_rows(answers, POLICY) <= 0.60
    assert guess_threshold_from_rows(weak_answers, ORACLE) > 0.65


# ---- a hundred phrasings


def phrasings(n: int) -> tuple[list[Definition], dict[str, Definition]]:
    """Ways to say: of T, those in Sport or it's, aged 18-24, who are not also in U."""
    random_ = random.Random(5)
    audiences: dict[str, Definition] = {}
    found: list[Definition] = []
    while len(found) < n:
        filters = [
            Filter("segments", FilterOperator.CONTAINS_ANY, _shuffled(random_, ["Sport", "it's"])),
            Filter("age", random_.choice([FilterOperator.CONTAINS_ANY, FilterOperator.CONTAINS_ALL]), ("18-24",)),
        ]
        filters = list(_shuffled(random_, filters * random_.randint(1, 2)))
        combinators = [
            Combinator(CombineOperator.DIFF, SeedRef("U")),
            *[Combinator(CombineOperator.INTERSECT, BaseRef())] * random_.randint(0, 2),
            *[Combinator(CombineOperator.INTERSECT, SeedRef("T"))] * random_.randint(0, 2),
        ]
        rule = RuleBased(
            SeedRef("T"),
            Filters(MatchOperator.MATCH_ALL, tuple(filters)),
            _shuffled(random_, combinators),
        )
        if random_.random() < 0.5:
            audiences[f"a{len(audiences)}"] = rule
            ref = CustomRef(f"a{len(audiences) - 1}")
            rule = RuleBased(ref, None, (Combinator(CombineOperator.UNION, ref),) * random_.randint(0, 1))
        if rule not in found:
            found.append(rule)
    return found, audiences


def _shuffled(random_: random.Random, values: list) -> tuple:  # type: ignore[type-arg]
    return tuple(random_.sample(values, len(values)))


def test_a_hundred_phrasings_are_one_answer_and_one_unit() -> None:
    definitions, audiences = phrasings(100)
    room = Room(Releaser(key_of(3), "v", False))
    answers = [room.size(205, canonical(each, audiences.__getitem__)) for each in definitions]
    assert len({str(each) for each in definitions}) == 100
    assert len(set(answers)) == 1
    assert room.spent == 1
    other = RuleBased(SeedRef("T"), None, (Combinator(CombineOperator.DIFF, SeedRef("U")),))
    room.size(205, canonical(other, audiences.__getitem__))
    assert room.spent == 2, "another question is paid for"
