"""Whole cells for QuPath, and their columns in the table of nuclei."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output

EXPAND_UM, MOST_UM = 5, 20


@OUTPUTS.register("cells")
class Cells(Output):
    """The cells for QuPath, ``cells.geojson.gz``."""

    files = ("cells.geojson.gz",)
    switch = Setting(
        "cells",
        None,
        {
            "type": ["boolean", "object", "null"],
            "additionalProperties": False,
            "properties": {
                "expand_um": {
                    "type": "number",
                    "description": f"um to grow by (default: {EXPAND_UM})",
                }
            },
            "required": ["expand_um"],
        },
        "expand nuclei to cells, and also write `cells.geojson.gz` for QuPath",
        "`true` is short for `{expand_um: 5}`, the distance in um by which a nucleus is expanded"
        " unless a neighbour or the edge of the tissue is closer"
        " ([docs/guide/cells.md](../docs/guide/cells.md)). Implies `features: basic`",
        metavar="UM",
    )
    rank = 25

    @override
    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        cells = settings["cells"]
        expand_um = EXPAND_UM if cells is True else cells["expand_um"]
        if not 0 < expand_um <= MOST_UM:
            raise ConfigError(
                f"cells: expand_um: nuclei grow by more than 0 and at most {MOST_UM} um, not by"
                f" {expand_um:g}"
            )
        features = "basic" if settings["features"] == "none" else settings["features"]
        return {"cells": {"expand_um": float(expand_um)}, "features": features}

    @override
    def write(self, slide: FinishedSlide) -> None:
        from muse_pipeline.features.catalogue import CELL, DAB_OF_CELL
        from muse_pipeline.nuclei.parquet import open_nuclei
        from muse_pipeline.qupath.write import write_cells
        from muse_pipeline.slides.inspect import read_info

        files, chosen = slide.files, slide.settings
        with open_nuclei(files.nuclei) as file:
            measured = [
                feature.name
                for feature in (*CELL, *DAB_OF_CELL)
                if feature.name in file.schema_arrow.names
            ]
        columns = [*measured, *chosen["measurements"]]
        output = files.folder / self.files[0]
        write_cells(
            files.nuclei, read_info(files.info), output, chosen["frame"], slide.threads, columns
        )
