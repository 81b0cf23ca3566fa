"""Any damaged file is read, or rejected in one sentence; nothing hangs, crashes or is left
behind.
"""

import pytest

from hostile.specimens import SPECIMENS
from hostile.trial import try_mutations

pytestmark = pytest.mark.timeout(1800)  # hundreds of commands on a machine that may be busy


def assert_no_defect(folder, n, start):
    outcomes = list(try_mutations(folder, n, start))
    assert [f"{one.number} {one.specimen}: {one.defect}" for one in outcomes if one.defect] == []
    rejected = sum(one.status == 2 for one in outcomes)
    assert (
        n // 4 < rejected < n
    )  # more than a quarter of the damaged files must be rejected, but not all of them


def test_a_few_mutations(tmp_path):
    """The first ones are of different specimens."""
    assert_no_defect(tmp_path, 10, 0)


@pytest.mark.slow
def test_hundreds_of_mutations(tmp_path):
    """Every specimen is damaged at least twice."""
    assert_no_defect(tmp_path, 300 + 2 * len(SPECIMENS), 0)
