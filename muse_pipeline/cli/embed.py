"""Compute a network's features for the nuclei of a slide, whichever model found them.

    muse embed results/S --model compact       the features of a detector
    muse embed results/S --checkpoint run/checkpoint.pt --model muse.onnx  exports first (torch)
    muse embed results/T --model muse.onnx     does not need torch
    muse embed results/T --model encoder.onnx  a network of `muse import-model`

Reads the nuclei and the image of a finished slide, and writes `embeddings-<model>.parquet` next to
them: the id in QuPath, the position, and a vector of 16-bit floats of every nucleus. With --nuclei,
it reads the nuclei from another program's file instead: outlines or points as GeoJSON, points as
CSV in level-0 pixels, or a label image.
"""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.cli.signature import Results
from muse_pipeline.core.types import Written


def run(
    results: Results,
    model: Written,
    checkpoint: Path | None = None,
    nuclei: Path | None = None,
    features: bool = False,
    threads: int = 1,
    provider: str = "cpu",
) -> None:
    """Export the checkpoint if one is given, and compute the features.

    Args:
        results: folder of one slide in the output of a run
        model: feature model, encoder, or detector (file or built-in)
        checkpoint: first export the model from this: a checkpoint of `muse train`, a released MUSE
            file, or `compact`
        nuclei: another program's nuclei, instead of the run's
        features: also measure shape, stains, texture and neighbours
        threads: windows run at the same time
        provider: runtime of the model
    """
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.inference.encoder import open_embedder
    from muse_pipeline.inference.model import choose_provider, find_model
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.steps import embed, image_mpp

    if checkpoint:
        from muse_pipeline.export.onnx import export_embedder

        card = export_embedder(checkpoint, model, image_mpp(results))
        print(
            f"{model}: {card.embedding_dim} features of {card.source['backbone']} at"
            f" {card.mpp:g} um/px"
        )
    provider = choose_provider(provider)
    embedder = open_embedder(find_model(str(model), provider), provider)
    foreign = None
    if nuclei:
        from muse_pipeline.proposals.imported import read_nuclei_of_others

        foreign = nuclei, read_nuclei_of_others(nuclei, read_info(SlideFiles(results).info))
    print(embed(results, embedder, features, threads, foreign))
