"""Which class of a model a class name in a file of labels means."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from muse_pipeline.core.errors import LabelError

# Names in lower case, QuPath's own and common spellings -> classes that they may mean, the preferred one first.
SYNONYMS = {
    "tumor": ("Tumour", "Epithelial"),
    "tumour": ("Tumor", "Epithelial"),
    "epithelium": ("Epithelial",),
    "epithelial cell": ("Epithelial",),
    "epithelial cells": ("Epithelial",),
    "immune cells": ("Lymphocyte",),
    "lymphocytes": ("Lymphocyte",),
    "stromal": ("Stroma",),
    "stromal cell": ("Stroma",),
    "stromal cells": ("Stroma",),
}


INTENSITIES = {"Positive", "Negative", "1+", "2+", "3+"}


def without_intensity(name: str) -> str:
    """The class that QuPath derived one of stained nuclei from: "Tumor" of "Tumor: Positive"."""
    base, _, last = name.rpartition(":")
    return base.strip() if base and last.strip() in INTENSITIES else name


def find_class(name: str, classes: Sequence[str], where: str, remedy: str) -> int:
    """Index of the class that ``name`` means: the one of that name, of that name in another case, or a synonym.

    A class that QuPath derived for positive or negative nuclei means the one it was derived from.

    Args:
        name: as the file gives it.
        classes: of the model.
        where: begins the error sentence.
        remedy: ends it.

    Raises:
        LabelError: the name means none of the classes; the nearest one is named.
    """
    in_lower_case = [one.lower() for one in classes]
    for word in (name, without_intensity(name)):
        if word in classes:
            return classes.index(word)
        if word.lower() in in_lower_case:
            return in_lower_case.index(word.lower())
        for synonym in SYNONYMS.get(word.lower(), ()):
            if synonym in classes:
                return classes.index(synonym)
    near = get_close_matches(name, classes, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise LabelError(f"{where}: class '{name}' is not one of the model's ({', '.join(classes)}); {hint}{remedy}")
