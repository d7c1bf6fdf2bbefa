"""Contract: PRIVACY.md agrees with the code: prices, error bounds, limits, the year's sum, every attack's run."""

import math
import re
from pathlib import Path

from cleanroom_pipelines import privacy
from cleanroom_pipelines.benchmarks.attacks.guessing import NAMES
from cleanroom_pipelines.privacy.accounting import (
    PAIR_TENTHS,
    TENTHS,
    attacker_success,
    bound_as_dict,
    composed_epsilon,
    right_at_most,
)
from cleanroom_pipelines.privacy.noise import noise_within
from cleanroom_pipelines.privacy.prices import (
    BASE_TENTHS,
    CELLS_OF_A_PERSON,
    COUNT,
    FIGURES_SENSITIVITY,
    HIDDEN_LOOKALIKE_TENTHS,
    INSIGHTS,
    MOST_FIGURES_TENTHS,
    MOST_LOOKALIKE_TENTHS,
    Price,
    figures_price,
)
from cleanroom_pipelines.similarity.private_lookalikes import choose

PAGE = (Path(privacy.__file__).parent / "PRIVACY.md").read_text(encoding="utf-8")
MONTHS = 12


def rows(heading: str, number: int = 0) -> list[list[str]]:
    """The cells of a table below a heading, without its own heading."""
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    tables = [each.strip().splitlines() for each in re.split(r"\n\n", part) if each.strip().startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in tables[number][2:]]


def percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def test_the_bound() -> None:
    told = [value for _, value in rows("The promise")]
    bound = bound_as_dict(PAIR_TENTHS)
    counts = [Price(TENTHS).spent] * 100
    assert told == [
        f"{right_at_most(PAIR_TENTHS) * 100:.1f} %",
        f"{bound['rho']}",
        f"{bound['mu']}",
        f"{bound['epsilon']}",
        f"{attacker_success(counts) * 100:.1f} %",
        f"{composed_epsilon(counts):.2f}",
    ]


def test_prices_of_counts() -> None:
    told = [int(within) for _, within in rows("Mechanisms")]
    prices = [Price(TENTHS), COUNT, Price(8 * TENTHS), INSIGHTS]
    assert told == [noise_within(price.variance, 0.9) for price in prices]


def test_prices_of_lookalikes() -> None:
    for size, vector, figures in rows("Mechanisms", 1):
        n = int(size.replace(",", ""))
        assert (float(vector), float(figures)) == (choose(n).units, figures_price(n).tenths / TENTHS), size


def test_prices_in_the_text() -> None:
    told = {output: price for output, _, price, _ in rows("What each output reveals, and what it requires")}
    assert told["overlap, size of an audience"] == f"{COUNT.tenths // TENTHS} units"
    assert told["insights"].startswith(f"{INSIGHTS.tenths // TENTHS} units, and {COUNT.tenths // TENTHS} for")
    base = told["numbers of matchable and of addressable users, in all and by attribute"]
    assert base == f"{BASE_TENTHS // TENTHS} units, once"
    assert told["lookalike: lists of 1 to 30 %, in place"].startswith(f"{MOST_LOOKALIKE_TENTHS // TENTHS} to 0.1")
    assert told["statistics of a lookalike"].startswith(f"{MOST_FIGURES_TENTHS // TENTHS} to 0.1 units")
    assert f"every lookalike costs {HIDDEN_LOOKALIKE_TENTHS // TENTHS} units." in PAGE
    assert f"{CELLS_OF_A_PERSON} for a table of insights" in PAGE
    assert f"{float(FIGURES_SENSITIVITY)} for a lookalike's figures" in PAGE


def test_what_adds_up() -> None:
    def right(times: int) -> str:
        return percent(right_at_most(times * PAIR_TENTHS))

    assert f"right in up to {right(4)} of cases with 2 ids, {right(9)} with 3." in PAGE
    assert f"right in up to {right(2)} of cases; with 5 in {right(5)}, with 10 in {right(10)}." in PAGE
    assert f"A refill** of 100 units: {right(2)} instead of {right(1)}; to 400 units in all {right(4)}." in PAGE
    assert f"The bound for twelve full months is {right(MONTHS)}" in PAGE


def test_the_year() -> None:
    table = {what.split(",")[0].split(" ")[0]: (times, each, units) for what, times, each, units in
             rows("A year of a real room")}  # fmt: skip
    lookalike = round(choose(5_000).units * TENTHS) + figures_price(5_000).tenths
    wanted = {
        "figures": (1, BASE_TENTHS),
        "overlap": (52, COUNT.tenths),
        "insights": (MONTHS, INSIGHTS.tenths),
        "lookalike": (MONTHS, lookalike),
        "the": (52, 0),
    }
    for name, (times, tenths) in wanted.items():
        assert table[name][0] == f"{times}"
        assert (float(table[name][1]), float(table[name][2])) == (tenths / TENTHS, times * tenths / TENTHS), name
    spent = sum(times * tenths for times, tenths in wanted.values())
    assert float(table["total"][2]) == spent / TENTHS
    assert f"for what this room really spends {percent(right_at_most(spent))}" in PAGE
    month = 5 * COUNT.tenths + INSIGHTS.tenths + lookalike
    assert f"The most expensive month (5 weeks) costs {month / TENTHS}." in PAGE
    fewer = MONTHS * COUNT.tenths + 2 * INSIGHTS.tenths + MONTHS * lookalike + BASE_TENTHS
    assert f"({BASE_TENTHS // TENTHS}) are {fewer / TENTHS} units" in PAGE
    assert fewer <= PAIR_TENTHS


def test_every_attack_is_listed_with_its_run() -> None:
    told = {row[0]: row[1:] for row in rows("Results of attacks")}
    assert sorted(told) == sorted(NAMES)
    assert re.search(r"run on \d{4}-\d\d-\d\d", PAGE)
    for name, (worlds, right, error, off) in told.items():
        standard = 50 / math.sqrt(int(worlds))
        assert float(error.rstrip("%")) == round(standard, 1), name
        assert float(right.rstrip("%")) <= 60 + 3 * standard, name
        assert float(off.rstrip("%")) > 90, name
