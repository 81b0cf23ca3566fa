"""A vector of a network's features for every nucleus."""

from pathlib import Path

from typing_extensions import override

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


@OUTPUTS.register("embedding")
class Embedding(Output):
    """The vectors of features, ``embeddings-<model>.parquet``."""

    patterns = ("embeddings-*.parquet",)
    switch = Setting(
        "embedding",
        False,
        {"type": "boolean"},
        "also write `embeddings-<model>.parquet`, a vector of the model's features for every"
        " nucleus",
        "See [docs/guide/features.md](../docs/guide/features.md#features-of-a-network)",
    )
    rank = 60
    step = "embed"

    @override
    def file_names(self, model: str) -> tuple[str, ...]:
        return (SlideFiles(Path()).embeddings(model).name,)

    @override
    def write(self, slide: FinishedSlide) -> None:
        from muse_pipeline.steps import embed

        embed(slide.files.folder, slide.embedder, threads=slide.threads)
