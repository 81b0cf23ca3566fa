import uuid

import numpy as np
import pytest

from muse_pipeline.qupath.columns import uuid5


@pytest.mark.parametrize("length", [1, 36, 60])
def test_against_the_standard_library(length):
    random = np.random.default_rng(length)
    names = random.integers(32, 127, (5000, length)).astype(np.uint8)
    namespace = uuid.UUID(int=int.from_bytes(random.bytes(16)))
    found = uuid5(namespace, names)
    expected = [str(uuid.uuid5(namespace, name.tobytes().decode())) for name in names]
    assert [text.tobytes().decode() for text in found] == expected
