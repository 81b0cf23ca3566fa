"""An output as another package could add it: the number of nuclei as text."""

from __future__ import annotations

from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


@OUTPUTS.register("toy")
class Toy(Output):
    """The output ``toy.txt``."""

    files = ("toy.txt",)
    switch = Setting("toy", False, {"type": "boolean"}, "write `toy.txt` too")
    settings = (Setting("toy_title", "nuclei", {"type": "string"}, "first line of `toy.txt`"),)

    def write(self, slide: FinishedSlide) -> list[str]:
        """Write the title and the number of nuclei."""
        from muse_pipeline.nuclei.parquet import read_provenance

        n = read_provenance(slide.files.nuclei).n_nuclei
        (slide.files.folder / "toy.txt").write_text(
            f"{slide.settings['toy_title']}\n{n}\n", encoding="utf-8"
        )
        return ["toy.txt has no classes"]
