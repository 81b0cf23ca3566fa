"""Which pictures or slides a source uses, and which label file belongs to which of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.data.pictures import list_pictures
from muse_pipeline.errors import LabelError
from muse_pipeline.nuclei.feature_stream import GEOJSON_SUFFIXES

TEXT_SUFFIXES = frozenset({".txt", ".csv", ".tsv"})
MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".npy"})
SUFFIXES = {"geojson": frozenset(GEOJSON_SUFFIXES), "instances": MASK_SUFFIXES}  # every other format is text


def image_paths(source: LabelSource) -> list[Path]:
    """The pictures of a source after ``split`` and ``exclude``, by name.

    Raises:
        LabelError: a folder or a picture that the split names is missing.
    """
    paths = all_pictures(source)
    if source.split is not None:
        paths = [source.images / name for name in read_split(source)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise LabelError(
                f"{source.split}: {len(missing)} of its images are not in {source.images}, first {missing[0]}"
            )
    return sorted(path for path in paths if source.is_used(path.name))


def all_pictures(source: LabelSource) -> list[Path]:
    """Every picture in the folder, used or not.

    Raises:
        LabelError: there is no such folder.
    """
    if not source.images.is_dir():
        raise LabelError(f"{source.images}: no such folder of images; correct `images` in the config")
    return list_pictures(source.images)


def read_split(source: LabelSource) -> list[str]:
    """The names in the split file, one a line.

    Raises:
        LabelError: the file is missing, empty, not text or names a picture twice.
    """
    if not source.split.is_file():
        raise LabelError(f"{source.split}: no such split file; correct `split` in the config")
    names = [line.strip() for line in read_lines(source.split) if line.strip()]
    if not names:
        raise LabelError(f"{source.split}: is empty; name the pictures to use, one a line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LabelError(f"{source.split}: names {twice} twice; keep one")
    return names


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8.

    Raises:
        LabelError: it cannot be read or is no such text; the line is named.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LabelError(f"{path}: not readable ({error.strerror}); correct its path or its permissions") from error
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LabelError(f"{path}, line {line}: not readable as text in UTF-8; save the file as UTF-8") from error


class LabelFiles:
    """The files of a folder by the stem of the picture, or the id of the slide, that they belong to.

    A file belongs to the longest stem that its name begins with, up to a dot or an underscore.
    """

    def __init__(self, folder: Path, stems: Iterable[str], suffixes: frozenset[str]):
        self.folder, self.suffixes = folder, suffixes
        if not folder.is_dir():
            raise LabelError(f"{folder}: no such folder of labels; correct it in the config")
        known = set(stems)
        self._files = defaultdict(list)
        for path in sorted(folder.iterdir()):
            suffix = next((s for s in suffixes if path.name.lower().endswith(s)), None)
            if suffix is None or path.name.startswith("."):
                continue
            name = path.name[: -len(suffix)]
            ends = [len(name), *(i for i in range(len(name) - 1, 0, -1) if name[i] in "._")]
            stem = next((name[:end] for end in ends if name[:end] in known), None)
            if stem is not None:
                self._files[stem].append(path)

    def of(self, stem: str) -> Path:
        """The label file of ``stem``.

        Raises:
            LabelError: there is none, or more than one.
        """
        found = self._files.get(stem, [])
        if len(found) == 1:
            return found[0]
        if found:
            raise LabelError(
                f"{found[0]}: and {found[1].name} both belong to '{stem}'; keep one of them there, "
                "or put the picture that the other is named after beside this one's"
            )
        known = ", ".join(sorted(self.suffixes))
        raise LabelError(f"{self.folder}: no label file for '{stem}' ({known}); add it or exclude the picture")
