"""Maps of third-party networks are decoded as the authors' own programs decode them (`experiments/peer_decoders`)."""

import numpy as np
import pytest

from experiments.peer_decoders.authors import FAMILIES
from experiments.peer_decoders.run import COUNTED, FIXTURES, compare


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_nuclei_and_classes_as_the_authors_find(family):
    """The windows have seams within the picture, and at least a quarter of its nuclei touch another one."""
    found = compare(family, dict(np.load(FIXTURES / f"{family}.npz")))
    assert len(found["iou"]) >= 10 and min(found["iou"]) >= 0.9
    assert found["same"] == 1 and not any(found[name] for name in COUNTED)
