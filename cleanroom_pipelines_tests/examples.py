"""How many examples a costly property test tries.

Keep out: strategies, and the profiles themselves (conftest).
"""

from hypothesis import HealthCheck, settings


def one_in(part: int) -> settings:
    """One in so many of the examples of the chosen profile, for a property of which each example is costly.

    Args:
        part: How many times an example costs what examples of the other properties do (a few milliseconds).
    """
    n_examples = max(1, settings.default.max_examples // part)
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=n_examples, suppress_health_check=quiet)
