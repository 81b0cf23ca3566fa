"""Class names in files are matched exactly, or else ignoring case, or else by synonyms; other names
are errors.
"""

import pytest

from muse_pipeline.core.errors import LabelError
from muse_pipeline.nuclei.class_names import find_class

BUILT_IN = ("Lymphocyte", "Epithelial", "Stroma")


@pytest.mark.parametrize(
    "name, classes, meant",
    [
        ("Stroma", BUILT_IN, "Stroma"),
        ("stroma", BUILT_IN, "Stroma"),
        ("Tumor", BUILT_IN, "Epithelial"),
        ("Tumour", BUILT_IN, "Epithelial"),
        ("Immune cells", BUILT_IN, "Lymphocyte"),
        ("Lymphocytes", BUILT_IN, "Lymphocyte"),
        ("Tumour", ("Epithelial", "Tumor"), "Tumor"),
        ("Tumor", ("Epithelial", "Tumor"), "Tumor"),
        ("tumor", ("Tumor", "tumor"), "tumor"),
        ("Epithelial: Positive", BUILT_IN, "Epithelial"),
        ("Tumor: 2+", BUILT_IN, "Epithelial"),
        ("Stroma: Negative", ("Stroma", "Stroma: Negative"), "Stroma: Negative"),
    ],
)
def test_a_name_means_the_nearest_of_the_model_s_classes(name, classes, meant):
    assert classes[find_class(name, classes, "file", "rename it")] == meant


@pytest.mark.parametrize(
    "name, classes, hint",
    [
        ("Stromma", BUILT_IN, "did you mean 'Stroma'?"),
        ("Necrosis", BUILT_IN, "Epithelial, Stroma\\); rename it"),
        ("Positive", BUILT_IN, "rename it"),
        ("Stroma: Hyaline", BUILT_IN, "rename it"),
        ("Epithelial", ("Tumor", "Stroma"), "rename it"),  # not every epithelium is a tumour
    ],
)
def test_other_names_are_rejected_with_the_nearest(name, classes, hint):
    with pytest.raises(
        LabelError,
        match=rf"^file: class '{name}' is not one of the model's .*{hint}".replace("?", r"\?"),
    ):
        find_class(name, classes, "file", "rename it")
