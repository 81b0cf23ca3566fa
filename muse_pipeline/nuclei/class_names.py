"""Find the class of a model that a class name in a label file refers to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from muse_pipeline.core.errors import LabelError

# QuPath's names and common spellings, in lower case -> classes that they may mean, the preferred one first.
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
    """The class from which QuPath derived a class of stained nuclei: "Tumor" for "Tumor: Positive"."""
    base, _, last = name.rpartition(":")
    return base.strip() if base and last.strip() in INTENSITIES else name


def find_class(name: str, classes: Sequence[str], where: str, remedy: str) -> int:
    """Index of the class that ``name`` refers to: the same name in upper or lower case, or a synonym.

    The classes that QuPath derives for positive or negative nuclei refer to their base class.

    Args:
        name: class name in the file.
        classes: classes of the model.
        where: beginning of the error message.
        remedy: end of the error message.

    Raises:
        LabelError: the name refers to none of the classes; the message suggests the most similar one, if any.
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


def map_class(
    word: str, class_map: Mapping[str, str | Sequence[str] | None], classes: Sequence[str], where: str
) -> tuple[int, ...]:
    """Indices of the classes that a class map gives for a class name in a file, or else for its base class.

    Args:
        word: class name in the file.
        class_map: one class of the model, several possible classes or None, keyed by word.
        classes: classes of the model.
        where: beginning of the error message.

    Raises:
        LabelError: the word is not in the map, or is mapped to something that is not a class of the model.
    """
    word = word if word in class_map else without_intensity(word)
    if word not in class_map:
        near = get_close_matches(word, class_map, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        known = ", ".join(class_map)
        raise LabelError(
            f"{where}: class '{word}' is not in class_map ({known}); {hint}add it to class_map or correct it"
        )
    mapped = class_map[word]
    names = [] if mapped is None else [mapped] if isinstance(mapped, str) else mapped
    if strange := [name for name in names if name not in classes]:
        raise LabelError(
            f"{where}: class_map maps '{word}' to '{strange[0]}', which is not a class of the model "
            f"({', '.join(classes)})"
        )
    return tuple(map(list(classes).index, names))


@dataclass(frozen=True)
class ClassWords:
    """The classes of a model that the class names in a file refer to.

    Attributes:
        classes: classes of the model; if there are none, every class is unknown.
        class_map: map as in ``map_class``; without a map, names refer to classes as in ``find_class``.
        remedy: end of the message about a name that refers to no class.
    """

    classes: Sequence[str]
    class_map: Mapping[str, str | Sequence[str] | None]
    remedy: str

    def indices(self, word: str, where: str) -> tuple[int, ...]:
        """Indices of the classes that a name refers to; none if its nuclei have no class, or one that is not used."""
        if not self.classes or not (word or word in self.class_map):
            return ()
        if not self.class_map:
            return (find_class(word, self.classes, where, self.remedy),)
        return map_class(word, self.class_map, self.classes, where)

    def index(self, word: str, where: str) -> int:
        """Index of the only class that a name refers to; -1 if there is none."""
        indices = self.indices(word, where)
        if len(indices) > 1:
            raise LabelError(
                f"{where}: class_map maps '{word}' to several classes, which only format 'areas' allows; name one, or "
                "null"
            )
        return next(iter(indices), -1)
