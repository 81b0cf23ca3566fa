"""Numbers and nouns agree."""

import pytest

from muse_pipeline.core.text import count_noun


@pytest.mark.parametrize(
    "n, nouns, text",
    [
        (0, ("patient",), "0 patients"),
        (1, ("patient",), "1 patient"),
        (1200, ("slide",), "1,200 slides"),
        (1, ("nucleus", "nuclei"), "1 nucleus"),
        (2, ("nucleus", "nuclei"), "2 nuclei"),
    ],
)
def test_a_number_and_its_noun_agree(n, nouns, text):
    assert count_noun(n, *nouns) == text
