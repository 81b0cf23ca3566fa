"""Whether the backbone's pretraining helped, as its own page has it."""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.files import read_json
from muse_pipeline.report.compare_chart import css_word
from muse_pipeline.report.markup import Markup, element, join
from muse_pipeline.report.pictures import Album

PAGES = {  # file of the run's folder -> what it is called
    "compare/compare.html": "Did pretraining help?",
    "views.png": "What it saw",
    "curves.png": "How it went",
    "cohort.yaml": "Settings and slides",
}


def pretraining_facts(folder: Path, album: Album) -> Markup:
    """The answers of the comparison and the way to it; a run or a comparison that did not end says so.

    Args:
        folder: of the pretraining run, as the workflow has it.
        album: of the page, which knows the way to files.
    """
    files = [(folder / name, words) for name, words in PAGES.items()]
    links = [element("a", words, href=album.link(file)) for file, words in files if file.is_file()]
    return element(
        "section",
        element("h3", element("bdi", folder.name)),
        *_answers(folder, album),
        element("p", join(links, " · ")) if links else None,
    )


def _answers(folder: Path, album: Album) -> list[Markup]:
    checkpoint, figures = folder / "checkpoint.pt", folder / "compare" / "compare.json"
    if not _is_newer(checkpoint, folder / "cohort.yaml"):
        return [_unfinished("It has not ended", folder / "logs" / "pretrain.log", album)]
    try:
        if not _is_newer(figures, checkpoint):
            raise ValueError("of an older run")
        answers = [(answer["verdict"], answer["sentence"]) for answer in read_json(figures)["answers"]]
    except (OSError, ValueError, KeyError, TypeError):
        return [_unfinished("Whether it helped is not known", folder / "logs" / "compare.log", album)]
    return [element("p", sentence, class_=f"answer {css_word(verdict)}") for verdict, sentence in answers]


def _is_newer(file: Path, than: Path) -> bool:
    """Whether the file was made after what it is made from; no file is not."""
    try:
        return file.stat().st_mtime_ns >= than.stat().st_mtime_ns
    except OSError:
        return False


def _unfinished(what: str, log: Path, album: Album) -> Markup:
    if not log.is_file():
        why = "slides that it learns from failed, or it was not reached; mend them, or name them in `pretrain.exclude`"
        return element("p", f"{what}: {why}.", class_="reason failed")
    return element("p", f"{what}: see ", element("a", "its log", href=album.link(log)), ".", class_="reason failed")
