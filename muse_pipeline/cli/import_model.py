"""Import a third-party network from an ONNX file as a model that finds nuclei, or that encodes
them.

    muse import-model stardist.onnx --kind stardist --mpp 0.5 --scaling percentile --input-px 512 \
        -o model.onnx
    muse import-model hover.onnx --kind hover --mpp 0.25 --scaling none --logits --input-px 512 -o \
        model.onnx
    muse import-model vit.onnx --kind encoder --mpp 0.5 --scaling imagenet --input-px 224 -o \
        encoder.onnx

The network must be of kind stardist (probability, rays), hover or cellvit (nucleus, horizontal and
vertical position), hovernext (background, inside and boundary; classes), instanseg (its TorchScript
file), cellpose (flows and nucleus), distance (classes, distance), boundary (classes and boundary),
or encoder (a vector per tile, for `muse embed`). Its graph is copied without changes, and a card is
added. Needs the extra `onnx`, and for instanseg the extra `train`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.cli.signature import AtLeastOne, Fraction, NotNegative
from muse_pipeline.core.types import ENCODER, Written


def run(
    network: Path,
    kind: str,
    mpp: float,
    scaling: str,
    output: Written,
    classes: Sequence[str] = ("Nucleus",),
    outputs: Sequence[str] = (),
    logits: bool = False,
    input_px: AtLeastOne | None = None,
    halo_um: NotNegative = 12.0,
    threshold: Fraction = 0.5,
    name: str | None = None,
    licence: str = "not given",
    training_data: str = "not given",
) -> None:
    """Import the network.

    Args:
        network: ONNX file, or TorchScript file of InstanSeg
        kind: content of the network's outputs
        mpp: um per pixel of the network's input
        scaling: scaling of the pixels: 0 to 255 (none), 0 to 1 (unit), -1 to 1 (symmetric), with
            ImageNet's mean and deviation (imagenet), or percentiles 1 and 99.8 of each channel of a
            window to 0 and 1 (percentile)
        output: file to write (.onnx)
        classes: classes in order, without background (default: Nucleus)
        outputs: names of the outputs in the order of the kind, then classes (default: identified by
            name or order)
        logits: apply softmax to the probability maps, or sigmoid to a single map
        input_px: side of a window or tile, a multiple of the stride, if the network takes any size
        halo_um: border of a window that belongs to its neighbours
        threshold: lowest probability of a nucleus, or of InstanSeg's seeds
        name: name of the model (default: that of the output file)
        licence: licence of the weights
        training_data: training data of the network
    """
    from itertools import cycle
    from tempfile import TemporaryDirectory

    from PIL import ImageColor

    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.core.types import NucleusClass
    from muse_pipeline.inference.families import FAMILIES
    from muse_pipeline.inference.import_model import import_encoder, import_model
    from muse_pipeline.report.plots import COLOR_BLIND_SAFE

    facts = {"mpp": mpp, "scaling": scaling, "licence": licence, "training_data": training_data}
    facts["name"] = name or output.stem
    files = network, output, input_px
    if kind == ENCODER:
        encoder = import_encoder(*files, outputs, **facts)
        print(
            f"{output}: {encoder.name}, {encoder.embedding_dim} numbers per tile of"
            f" {encoder.tile_px} px"
        )
        return
    FAMILIES[kind]  # an unknown kind ends here
    if len(set(classes)) < len(classes):
        raise ConfigError(f"--classes {' '.join(classes)}: give each class a name of its own")
    colours = map(ImageColor.getrgb, cycle(COLOR_BLIND_SAFE))
    facts |= {"kind": kind, "logits": logits, "threshold": threshold}
    facts["classes"] = tuple(NucleusClass(*pair) for pair in zip(classes, colours, strict=False))
    with TemporaryDirectory() as folder:
        if kind == "instanseg":
            from muse_pipeline.export.instanseg import convert_instanseg

            facts["graph"] = Path(folder) / "graph.onnx"
            facts["classifier"] = convert_instanseg(network, facts["graph"], input_px)
        card = import_model(*files, halo_um, outputs, **facts)
    print(
        f"{output}: {card.name}, {card.mpp:g} um/px, windows of {card.input_px} px with a halo"
        f" of {card.halo_px} px, from {', '.join(card.maps)}; {card.source['trial']}"
    )
