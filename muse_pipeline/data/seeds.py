"""One seed per step of a run: draws depend on the step alone, so that a resumed run sees what it would have seen."""

MAX_SEED = 1 << 40  # with which a seed of any step fits into 64 bits
SEED_STRIDE = 1_000_003  # apart enough that the random numbers of no two seeds' runs meet


def seed_of_step(seed: int, step: int) -> int:
    """Of ``step`` in the run of ``seed``."""
    return seed * SEED_STRIDE + step
