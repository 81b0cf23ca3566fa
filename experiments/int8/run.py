"""The built-in model in int8 and in floating point, on processors with and without VNNI, and sums
that saturate.

    python -m experiments.int8.run --data DATA --processor "Zen 4" qemu-x86_64 -cpu Haswell PYTHON
        -m experiments.int8.run --data DATA --models compact-int8 --processor Haswell python -m
        experiments.int8.run --data DATA --saturation python -m experiments.int8.run --table

Without VNNI, x86-64 processors add two products of bytes in 16 bits, which saturates. QEMU's user
mode emulates such a processor exactly, but much slower than a real one; NumPy's own AVX2 code has
to be switched off there (``NPY_DISABLE_CPU_FEATURES=X86_V3``). ``--saturation`` counts the pairs of
products above 16 bits: in windows of BRCA-M2C, and if every activation had its largest value.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.common.breast import load_breast
from experiments.common.crops import aji, detection_f1, network_finder, read_crops, score_crops
from experiments.common.runs import add_run, is_recorded, read_runs, runs_of
from experiments.common.sites import score_site
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor

RUNS = runs_of(__file__)
OUTLINED = {"tnbc": "TNBC", "nucls": "NuCLS", "dsb2018": "DSB-2018", "nuinsseg": "NuInsSeg"}
BREAST = "brca-m2c"
LIMIT = 2**15 - 1


def main() -> None:
    """Measure what is not recorded, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with the sets")
    parser.add_argument("--models", nargs="+", default=["compact-fp32", "compact-int8"])
    parser.add_argument("--processor", help="name of this processor in the table")
    parser.add_argument("--sets", nargs="+", default=[BREAST, *OUTLINED])
    parser.add_argument("--saturation", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(render_table(read_runs(RUNS)))
    elif args.saturation:
        add_run(RUNS, {"saturation": count_saturation(args.data)})
    else:
        for model in args.models:
            for name in args.sets:
                key = {"model": model, "processor": args.processor, "set": name}
                if not is_recorded(RUNS, **key):
                    add_run(RUNS, key | score_set(model, name, args.data))
                    print(*key.values(), flush=True)


def score_set(model: str, name: str, data: Path) -> dict:
    """Patients and counts of a set's crops: of detection and classes for BRCA-M2C, of ``compare``
    for the others.
    """
    predictor = Predictor(find_model(model))
    if name == BREAST:
        config = load_breast(data)
        return score_site(predictor, config.sources[:1], config)
    crops = read_crops(data, name)
    find = network_finder(predictor)
    return score_crops([find(pixels) for _, _, pixels, *_ in crops], crops)


def count_saturation(data: Path) -> dict:
    """Pairs of products, and saturated ones, in each quantised convolution of ``compact-int8``."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    from muse_pipeline.export.quantise import calibration_windows
    from muse_pipeline.inference.card import ModelCard
    from muse_pipeline.inference.model import read_card

    path = find_model("compact-int8")
    network = onnx.load(path)
    constants = {tensor.name: tensor for tensor in network.graph.initializer}
    makers = {output: node for node in network.graph.node for output in node.output}
    layers = {}
    for node in network.graph.node:
        if node.op_type == "Conv" and makers.get(node.input[1], node).op_type == "DequantizeLinear":
            kernel = numpy_helper.to_array(constants[makers[node.input[1]].input[0]])
            stride = next(entry.ints[0] for entry in node.attribute if entry.name == "strides")
            pads = next((entry.ints[0] for entry in node.attribute if entry.name == "pads"), 0)
            layers[node.name] = (
                makers[node.input[0]].input[0],
                kernel.astype(np.int32),
                stride,
                pads,
            )
    inputs = sorted({source for source, *_ in layers.values()})
    network.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inputs)
    session = onnxruntime.InferenceSession(
        network.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    windows = calibration_windows(data / "brca-m2c/images", read_card(path, ModelCard))[:8]
    counts = {name: {"pairs": 0, "saturated": 0, "saturated at 255": 0} for name in layers}
    for window in windows:
        values = session.run(inputs, {"pixels": window.pixels, "colour": window.colour})
        maps = dict(zip(inputs, values, strict=True))
        for name, (source, kernel, stride, pads) in layers.items():
            pairs = pair_sums(maps[source][0].astype(np.int32), kernel, stride, pads)
            for sums in pairs:
                counts[name]["pairs"] += sums.size
                counts[name]["saturated"] += int(((sums > LIMIT) | (sums < -LIMIT - 1)).sum())
    for name, (_, kernel, *_) in layers.items():
        worst = 255 * paired(kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)).sum(-1)
        counts[name]["saturated at 255"] = int((np.abs(worst) > LIMIT).sum())
        counts[name]["pairs of weights"] = worst.size
    return counts


def pair_sums(
    image: np.ndarray, kernel: np.ndarray, stride: int, pads: int
) -> Iterator[np.ndarray]:
    """Sums of pairs of products (positions, filters) as the instruction makes them; channels vary
    fastest.

    Args:
        image: (C, h, w) of 8 bits.
        kernel: (F, C, k, k) of 8 bits.
        stride: step of the convolution in px.
        pads: padding on each side in px.
    """
    size = kernel.shape[-1]
    padded = np.pad(image, ((0, 0), (pads, pads), (pads, pads)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))[
        :, ::stride, ::stride
    ]
    columns = paired(
        views[:, ::2, ::2].transpose(1, 2, 3, 4, 0).reshape(-1, size * size * len(image))
    )
    weights = paired(kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1))
    for index in range(columns.shape[1]):
        yield columns[:, index] @ weights[:, index].T


def paired(values: np.ndarray) -> np.ndarray:
    """(N, K) -> (N, K / 2, 2), with a zero at the end if K is odd."""
    return np.pad(values, ((0, 0), (0, values.shape[1] % 2))).reshape(len(values), -1, 2)


def render_table(runs: list[dict]) -> str:
    """A row per set: detection F1, and mean class F1 or AJI, of each model and processor."""
    scored = {(run["set"], run["model"], run["processor"]): run for run in runs if "set" in run}
    arms = list(dict.fromkeys((model, processor) for _, model, processor in scored))
    titles = " | ".join(f"{model}, {processor}" for model, processor in arms)
    rows = [f"| set | measure | {titles} |", "|---|---|" + "---|" * len(arms)]
    for name, title in {BREAST: "BRCA-M2C", **OUTLINED}.items():
        counts = [
            np.array(scored[name, *arm]["counts"], float) for arm in arms if (name, *arm) in scored
        ]
        if not counts or len(counts) < len(arms):
            continue
        if name == BREAST:
            totals = [DetectionCounts(values.sum(0)) for values in counts]
            measures = {
                "detection F1": [t.f1[0] for t in totals],
                "mean class F1": [t.mean_class_f1 for t in totals],
            }
        else:
            sums = [values.sum(0) for values in counts]
            measures = {
                "detection F1": [100 * detection_f1(s) for s in sums],
                "AJI": [100 * aji(s) for s in sums],
            }
        rows += [
            f"| {title}, {len(counts[0])} crops | {measure} |"
            f" {' | '.join(f'{value:.1f}' for value in values)} |"
            for measure, values in measures.items()
        ]
    for layers in (run["saturation"].values() for run in runs if "saturation" in run):
        total = {
            key: sum(layer[key] for layer in layers)
            for key in ("pairs", "saturated", "pairs of weights", "saturated at 255")
        }
        rows.append(f"\n{total}")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
