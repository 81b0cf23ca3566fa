"""Find the class of a model that a class name in a label file refers to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.text import suggest

# QuPath's names and common spellings, in lower case -> classes that they may mean, the preferred
# one first.
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

T, Item = TypeVar("T"), TypeVar("Item")


class UnknownClassError(LabelError):
    """Class names in label files refer to no class; the message is about the first of ``words``,
    and lists them all.
    """

    def __init__(self, about_first: str, words: Sequence[str]):
        super().__init__(about_first, words)
        self.about_first, self.words = about_first, words

    def __str__(self) -> str:
        others = ", ".join(f"'{word}'" for word in self.words[1:])
        return f"{self.about_first}; also unknown: {others}" if others else self.about_first


def resolve_all(items: Iterable[Item], resolve: Callable[[Item], T]) -> list[T]:
    """The results of ``resolve`` for all ``items``."""
    results, errors = [], []
    for item in items:
        try:
            results.append(resolve(item))
        except UnknownClassError as error:
            errors.append(error)
    if errors:
        raise UnknownClassError(
            errors[0].about_first, list(dict.fromkeys(w for error in errors for w in error.words))
        )
    return results


def without_intensity(name: str) -> str:
    """The class from which QuPath derived a class of stained nuclei: "Tumor" for "Tumor:
    Positive".
    """
    base, _, last = name.rpartition(":")
    return base.strip() if base and last.strip() in INTENSITIES else name


def find_class(name: str, classes: Sequence[str], where: str, remedy: str) -> int:
    """Index of the class that ``name`` refers to: the same name in upper or lower case, or a
    synonym.

    The classes that QuPath derives for positive or negative nuclei refer to their base class. An
    error begins with ``where`` and ends with ``remedy``.
    """
    for word in (name, without_intensity(name)):
        if same := find_name(word, classes):
            return list(classes).index(same)
        for synonym in SYNONYMS.get(word.lower(), ()):
            if synonym in classes:
                return classes.index(synonym)
    what = f"class '{name}' is not one of the model's ({', '.join(classes)})"
    raise UnknownClassError(f"{where}: {what}; {suggest(name, classes, remedy)}", [name])


def find_name(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that is ``name``, or else the first that differs from it only in case;
    None if none does.
    """
    alike = [other for other in names if other.lower() == name.lower()]
    return name if name in alike else next(iter(alike), None)


def map_class(
    word: str,
    class_map: Mapping[str, str | Sequence[str] | None],
    classes: Sequence[str],
    where: str,
) -> tuple[int, ...]:
    """Indices of the classes that a class map gives for the class name ``word`` in a file, or else
    for its base class.

    The map has a class of the model, several possible classes or None per word; classes of the
    model that it lacks are themselves. The case of names is ignored where no name is equal. An
    error begins with ``where``.
    """
    own = {name: name for name in classes if not find_name(name, class_map)}
    key = find_name(word, mapping := own | class_map) or find_name(without_intensity(word), mapping)
    if key is None:
        hint = suggest(word, class_map, "add it to class_map or correct it")
        raise UnknownClassError(
            f"{where}: class '{word}' is not in class_map ({', '.join(class_map)}); {hint}", [word]
        )
    mapped = mapping[key]
    names = [] if mapped is None else [mapped] if isinstance(mapped, str) else mapped
    if strange := [name for name in names if not find_name(name, classes)]:
        raise LabelError(
            f"{where}: class_map maps '{key}' to '{strange[0]}', which is not a class of the model "
            f"({', '.join(classes)})"
        )
    return tuple(list(classes).index(find_name(name, classes)) for name in names)


@dataclass(frozen=True)
class ClassWords:
    """The classes of a model that the class names in a file refer to."""

    classes: Sequence[str]  # classes of the model; if there are none, every class is unknown
    # as in ``map_class``; if empty, as in ``find_class``
    class_map: Mapping[str, str | Sequence[str] | None]
    remedy: str  # end of the message about a name that refers to no class

    def indices(self, word: str, where: str) -> tuple[int, ...]:
        """Indices of the classes that a name refers to; none if its nuclei have no class, or one
        that is not used.
        """
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
                f"{where}: class_map maps '{word}' to several classes, which only format 'areas'"
                " allows; name one, or null"
            )
        return next(iter(indices), -1)
