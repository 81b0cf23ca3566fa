"""Write a checkpoint as one ONNX file that contains its model card, and compare it with torch.

The nuclei, or the maps of a region model, are compared on the pictures that the training run wrote
next to its checkpoint, or on the pictures of `--check-images FOLDER`. The differences are printed,
and nothing is written if they are too large.
"""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.cli.signature import AtLeastOne
from muse_pipeline.core.types import Written


def run(
    checkpoint: Path,
    output: Written,
    check_images: Path | None = None,
    calibration: Path | None = None,
    name: str | None = None,
    input_px: AtLeastOne | None = None,
    halo_px: int | None = None,
    precision: str | None = None,
    embedding: bool = False,
    any_window: bool = False,
) -> None:
    """Export the checkpoint, and compare the file with it.

    Args:
        checkpoint: checkpoint.pt of a detector or a region model, or the name of a built-in
            detector that has one
        output: file to write (.onnx)
        check_images: pictures to compare with PyTorch, at the model's mpp
        calibration: pictures at the model's mpp for the ranges of int8, instead of those next to
            the checkpoint
        name: name of the model, like the next options instead of the training config's
        input_px: side of a window
        halo_px: border whose nuclei belong to the next window
        precision: precision of weights and activations
        embedding: also return the feature vector of every nucleus
        any_window: export a network with aligned corners for windows of a different size than in
            training
    """
    from muse_pipeline.core.errors import CheckpointError
    from muse_pipeline.core.files import complete_file
    from muse_pipeline.export.onnx import export_onnx
    from muse_pipeline.export.parity import check_parity
    from muse_pipeline.export.region_models import check_region_parity, export_region_model
    from muse_pipeline.inference.card import REGIONS
    from muse_pipeline.inference.model import find_checkpoint, list_checkpoints
    from muse_pipeline.training.checkpoint import load_checkpoint
    from muse_pipeline.training.run import RunFolder

    checkpoint = find_checkpoint(checkpoint)
    if not checkpoint.is_file():
        built_in = ", ".join(list_checkpoints())
        raise CheckpointError(
            f"{checkpoint}: no such checkpoint; give a .pt file or a built-in name ({built_in})"
        )
    given = {"name": name, "input_px": input_px, "halo_px": halo_px, "precision": precision}
    given |= {"embedding": embedding or None, "any_window": any_window or None}
    changes = {setting: value for setting, value in given.items() if value is not None}
    kept = RunFolder(checkpoint.parent).pictures
    pictures = check_images or (kept if kept.is_dir() else None)
    of_regions = load_checkpoint(checkpoint).meta.get("kind") == REGIONS
    export, check = (
        (export_region_model, check_region_parity) if of_regions else (export_onnx, check_parity)
    )
    with complete_file(output) as partial:
        export(checkpoint, partial, calibration=calibration, **changes)
        if pictures:
            parity = check(checkpoint, partial, pictures)
            print(f"checked against torch on {pictures}: {parity}")
        else:
            print(
                "not checked against torch: there are no pictures next to the checkpoint; give"
                " --check-images FOLDER"
            )
