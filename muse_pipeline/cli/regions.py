"""Map tissue regions of a slide, from the classes of its nuclei or with an ONNX region model.

    muse regions results/S1/image-500nm.zarr --nuclei results/S1/shards/*.parquet -o results/S1
    muse regions results/S1/image-500nm.zarr --model tumour.onnx -o results/S1

Reads the smaller levels of the store that `muse step tile` wrote, and slide.json and colour.json
next to it. Writes regions.geojson (annotations for QuPath), regions.png, regions.zarr and
regions.json into the folder. If this fails, regions.json states why, so that the slide's nuclei can
be written without regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.core.errors import ArgumentError, ModelError
from muse_pipeline.core.types import Written

if TYPE_CHECKING:
    from muse_pipeline.inference.predictor import RegionPredictor


def run(
    store: Path,
    output: Written,
    nuclei: Sequence[Path] = (),
    model: str | None = None,
    training: Path | None = None,
    info: Path | None = None,
    colour: Path | None = None,
    threads: int = 1,
    provider: str = "cpu",
    outcome: Written | None = None,
) -> None:
    """Map the regions; in the workflow, a slide whose regions fail gets its nuclei all the same.

    Args:
        store: image store; the model's um/px must be a multiple of its um/px
        output: folder for the files
        nuclei: all shards of the slide
        model: region model
        training: outcome of the workflow's training of the model (JSON)
        info: slide.json (default: next to the store)
        colour: colour.json (default: next to the store)
        threads: windows run at the same time
        provider: runtime of the model
        outcome: ledger of the step, which then ends well if it fails (JSON)
    """
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.cohort.ledgers import record_step
    from muse_pipeline.steps import regions

    if bool(nuclei) == bool(model):
        raise ArgumentError("give either --nuclei or --model, the source of the regions")
    files = SlideFiles(store.parent)
    inputs = info or files.info, colour or files.colour
    source = nuclei or _loader(model, training, provider)
    with (
        suppress(Exception) if outcome else nullcontext(),
        record_step(outcome, "regions") as warnings,
    ):
        regions(store, source, *inputs, output, threads, warnings)


def _loader(model: str, training: Path | None, provider: str) -> Callable[[], RegionPredictor]:
    def load() -> RegionPredictor:
        """Load the region model, unless the workflow trains it and its training failed."""
        from muse_pipeline.core.files import read_json
        from muse_pipeline.inference.model import choose_provider, find_region_model
        from muse_pipeline.inference.predictor import RegionPredictor

        if training and read_json(training)["status"] != "ok":
            raise ModelError(
                f"the training of the region model failed; see {training.parent / 'logs/train.log'}"
            )
        chosen = choose_provider(provider)
        return RegionPredictor(find_region_model(model, chosen), chosen)

    return load
