"""Steps that find nuclei in one shard of a slide: `detect` with a model, `propose` without."""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.core.config import parse_yaml
from muse_pipeline.core.process import print_load, show_progress
from muse_pipeline.core.types import Written
from muse_pipeline.inference.detect import ModelFinder, WindowChoice, detect_shard
from muse_pipeline.inference.model import name_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import read_colour
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.grid import Shard
from muse_pipeline.store.store import open_store


def detect(
    store: Path,
    predictor: Predictor,
    colour: Path,
    output: Written,
    shard: str = "1-of-1",
    threads: int = 1,
    stain: str | None = None,
) -> list[str]:
    """Find the nuclei of one shard of a slide with an ONNX model, and return warnings.

    The result does not depend on the number of shards or threads.

    Args:
        store: image store at the model's mpp.
        predictor: built-in name or path of an .onnx file with a card.
        colour: colour.json of the slide.
        output: table of the shard (Parquet).
        shard: part of the slide, such as 1-of-4.
        threads: windows that run at the same time.
        stain: stain in the sheet; if it is missing or "unknown", the colours decide.
    """
    choice, image = WindowChoice(Shard.parse(shard)), open_store(store)
    image.require_lossless()
    finder = ModelFinder.of_slide(predictor, read_colour(colour, image.fingerprint), stain)
    device = f" ({predictor.device})" if predictor.device else ""
    print(
        f"model: {name_model(predictor.path)} ({predictor.card.precision}), provider"
        f" {predictor.provider}{device}"
    )
    with print_load("finding nuclei", threads), show_progress("windows") as progress:
        detect_shard(
            image,
            finder,
            output,
            choice,
            threads=threads,
            progress=progress,
            in_processes=predictor.provider == "cpu",
        )
    return finder.appearance.sentences()


def propose(
    store: Path,
    colour: Path,
    info: Path,
    output: Written,
    method: str = "haematoxylin",
    settings: str = "{}",
    shard: str = "1-of-1",
    threads: int = 1,
) -> list[str]:
    """Propose the nuclei of one shard of a slide without any label, and return warnings.

    The slide's parameters are estimated from a fixed sample, so the result does not depend on the
    number of shards or threads.

    Args:
        store: image store of the slide.
        colour: colour.json of the slide.
        info: slide.json of the slide.
        output: table of the shard (Parquet), for ``stitch``.
        method: name of a proposer.
        settings: its settings as YAML, such as '{min_distance_um: 4}'.
        shard: part of the slide, such as 1-of-4.
        threads: windows that run at the same time.
    """
    import cv2

    from muse_pipeline.proposals.base import fit_proposer, propose_shard

    cv2.setNumThreads(1)  # windows run in parallel instead
    part = Shard.parse(shard)
    image = open_store(store)
    header = read_info(info)
    values = parse_yaml(settings, "--settings")
    stains = read_colour(colour, image.fingerprint)
    with show_progress("windows") as progress:
        fitted = fit_proposer(image, method, values, stains, header)
        return propose_shard(image, *fitted, part, output, threads=threads, progress=progress)
