"""Class names in files are matched exactly, or else ignoring case, or else by synonyms; other names
are errors.
"""

import pytest

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
