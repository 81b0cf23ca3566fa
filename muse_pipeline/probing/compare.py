"""Comparison of two backbones with labels, without, or both: figures, verdicts and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import write_json
from muse_pipeline.core.text import count_noun
from muse_pipeline.evaluation.bootstrap import FEW, MIN_PATIENTS
from muse_pipeline.evaluation.summary_text import NONE, format_number, render_table
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.detector.config import DetectorConfig, require_window
from muse_pipeline.methods.muse.data import read_pretrain_data
from muse_pipeline.probing.compare_labels import DRAWS, NAMES, compare_on_labels
from muse_pipeline.probing.compare_tissue import RETRIEVAL, TissueConfig, choose_images, compare_on_tissue
from muse_pipeline.probing.network import ProbedNetwork, backbone_name, open_network
from muse_pipeline.probing.probe import ProbeSettings, read_probe_data
from muse_pipeline.probing.protocols import KNN
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.run import Options

SIDES = ("before", "after")
INDEX = "nuclei"


@dataclass(frozen=True)
class CompareSettings(ProbeSettings):
    """Settings of a comparison of two backbones.

    Attributes:
        draws: draws of patients, for fewer labels than all.
    """

    draws: int = DRAWS


class Comparison:
    """Comparison of two networks on labels, on tissue without labels, or on both.

    Args:
        networks: the network before and the one after.
        settings: settings of the comparison.
        output: folder for figures and pictures.
        options: options of the computation.

    Raises:
        ConfigError: the window does not suit a backbone.
    """

    def __init__(self, networks: Sequence[ProbedNetwork], settings: CompareSettings, output: Path, options: Options):
        torch.set_num_threads(options.threads)
        self.networks, self.settings, self.output, self.say = networks, settings, output, options.say
        self.device = open_fabric(options.accelerator, 1, "32-true").device
        for network in networks:
            require_window(settings.window_px, network.backbone, network.name)

    def run(
        self, labelled: DetectorConfig | None, test: Sequence[LabelSource], tissue: TissueConfig | None
    ) -> dict[str, Any]:
        """Compare with labels, without, or both; ``compare.json`` and pictures are written.

        Args:
            labelled: classes, mpp and sources of a training run.
            test: labelled pictures to report on; without them, the validation's patients in halves.
            tissue: nuclei without labels.

        Raises:
            ConfigError: there is no validation, a class has no nucleus, or an image has too few.
            LabelError: labels cannot be read, or patients are on both sides or were trained on.
            MuseError: tissue cannot be read.
        """
        result: dict[str, Any] = {
            side: {"backbone": one.name, "weights": one.weights, "colour": one.reference.method}
            for side, one in zip(SIDES, self.networks, strict=True)
        }
        parts = {
            "with_labels": self._on_labels(labelled, test) if labelled else None,
            "without_labels": self._on_tissue(tissue) if tissue else None,
        }
        result |= {"answers": [_ANSWERS[name](part) for name, part in parts.items() if part], **parts}
        write_json(self.output / "compare.json", result)
        return result

    def _on_labels(self, config: DetectorConfig, test: Sequence[LabelSource]) -> dict[str, Any]:
        settings = self.settings
        data = read_probe_data(config, test, settings.shared_patients, settings.window_px)
        seen = self._check_unseen(data.reported)
        part = compare_on_labels(
            data,
            self.networks,
            classes=config.classes,
            mpp=config.mpp,
            settings=settings,
            draws=settings.draws,
            device=self.device,
            output=self.output,
            say=self.say,
        )
        return {**part, "notes": [*seen, *part["notes"]]}

    def _on_tissue(self, config: TissueConfig) -> dict[str, Any]:
        mpps, folder = config.views.mpp, self.output / INDEX
        data = read_pretrain_data(config.sources, mpps[0], max(2, config.min_nuclei), folder, self.say)
        seen = self._check_unseen(choose_images(data.images))
        part = compare_on_tissue(
            data.images,
            self.networks,
            mpps=mpps,
            settings=self.settings,
            device=self.device,
            output=self.output,
            say=self.say,
        )
        return {**part, "notes": [*seen, *part["notes"]]}

    def _check_unseen(self, images: Sequence) -> list[str]:
        return [
            note for network in self.networks for note in network.check_unseen(images, self.settings.shared_patients)
        ]


def open_networks(
    before: Path | None, after: Path | None, named: str | None, default: str | None, trust_pickle: bool = False
) -> tuple[ProbedNetwork, ProbedNetwork]:
    """Open both networks, each of the backbone in its checkpoint; random weights get the colours of the other network.

    Args:
        before: checkpoint; None: random weights.
        after: checkpoint; None: random weights.
        named: backbone of a checkpoint without a name, and of random weights, which by default have that of the other
            checkpoint.
        default: backbone used if there is no name; None: an error.
        trust_pickle: also unpickle objects other than tensors and plain values, which can run any code.

    Raises:
        CheckpointError: a checkpoint is not there or does not fit.
        ConfigError: both are random, or a backbone is not known.
    """
    paths = before, after
    if before is None and after is None:
        raise ConfigError("--before and --after are both untrained; name the checkpoint that is asked about")
    own = [None if path is None else backbone_name(path, trust_pickle) for path in paths]
    names = [own[side] or named or (own[1 - side] if path is None else None) for side, path in enumerate(paths)]
    if not all(name or default for name in names):
        raise ConfigError("no checkpoint has the name of its backbone; give it with --backbone")
    networks = [open_network(name or default, path, trust_pickle) for name, path in zip(names, paths, strict=True)]
    one, other = (
        dataclasses.replace(network, reference=networks[1 - side].reference) if paths[side] is None else network
        for side, network in enumerate(networks)
    )
    return one, other


def _answer_by_labels(labels: dict[str, Any]) -> dict[str, str]:
    """Answer by nearest neighbours from all labels, without training; the rule is fixed in advance."""
    row = next(row for row in labels["rows"] if row["protocol"] == NAMES[KNN] and row["share"] == 1)
    return _answer("With labels", "of nuclei get the right class from their nearest neighbours", row["accuracy"])


def _answer_by_tissue(tissue: dict[str, Any]) -> dict[str, str]:
    """Answer by retrieval across mpps; the rule is fixed in advance."""
    row = next(row for row in tissue["rows"] if row["measure"] == RETRIEVAL)
    what = f"of nuclei at {tissue['mpps'][0]:g} um/px are found again at {tissue['mpps'][1]:g} um/px"
    return _answer("Without labels", what, row["score"])


_ANSWERS = {"with_labels": _answer_by_labels, "without_labels": _answer_by_tissue}


def _answer(where: str, what: str, score: dict[str, Any]) -> dict[str, str]:
    """The verdict in sentences; ``what`` is the text after the percentage."""
    n, verdict = score["n_patients"], score["verdict"]
    patients = count_noun(n, "patient")
    needed = f" ({n}, where {MIN_PATIENTS} are needed)" if verdict == FEW else ""
    ends = score["interval"]
    interval = f", 95 % interval {ends[0]:+.1f} to {ends[1]:+.1f} over {patients}" if ends else ""
    sentence = (
        f"{where}: {verdict}{needed}. {score['after']:.1f} % {what}; before, {score['before']:.1f} % "
        f"({score['difference']:+.1f} points{interval})."
    )
    return {"where": where, "verdict": verdict, "sentence": sentence}


def render_comparison(result: dict[str, Any]) -> str:
    """Format the answers, then tables of ``Comparison.run``'s dictionary, and the data behind them."""
    sides = [f"{side}: {result[side]['backbone']} ({result[side]['weights']})" for side in ("before", "after")]
    parts = ["\n".join(answer["sentence"] for answer in result["answers"]), "\n".join(sides)]
    remarks = []
    if labels := result["with_labels"]:
        parts.append(_label_table(labels))
        remarks += [*_how_labels(labels), *labels["notes"]]
    if tissue := result["without_labels"]:
        parts.append(_tissue_table(tissue))
        remarks += [*_how_tissue(tissue), *tissue["notes"]]
    remarks.append(
        "differences are paired; 95 % intervals by bootstrap over patients; better: the interval leaves 0 out; an "
        "answer is that of its table's first line"
    )
    return "\n\n".join([*parts, "\n".join(remarks)])


def _label_table(labels: dict[str, Any]) -> str:
    header = ["classes at given points, %", "labels of", "before", "after", "difference", "interval", "better?"]
    rows = [
        [
            row["protocol"],
            _patients(row),
            *_score_cells(row["accuracy"]),
            *_score_cells(row["balanced_accuracy"])[2:],
        ]
        for row in labels["rows"]
    ]
    return render_table([*header, "balanced", "interval", "better?"], rows)


def _tissue_table(tissue: dict[str, Any]) -> str:
    header = ["nuclei without labels, %", "nuclei", "before", "after", "difference", "interval", "better?"]
    rows = [[row["measure"], f"{row['n_nuclei']:,}", *_score_cells(row["score"])] for row in tissue["rows"]]
    return render_table(header, rows)


def _patients(row: dict[str, Any]) -> str:
    draws = f" x{row['n_draws']}" if row["n_draws"] > 1 else ""
    return f"{count_noun(row['n_patients'], 'patient')}{draws}"


def _score_cells(score: dict[str, Any]) -> list[str]:
    return [
        *(format_number(score[key]) for key in ("before", "after")),
        f"{score['difference']:+.1f}",
        _signed(score["interval"]),
        score["verdict"],
    ]


def _signed(interval: Sequence[float] | None) -> str:
    return NONE if interval is None else " to ".join(f"{end:+.1f}" for end in interval)


def _how_labels(labels: dict[str, Any]) -> Iterator[str]:
    counts = "; ".join(
        f"{name} {one['n_nuclei']:,} nuclei of {count_noun(one['n_patients'], 'patient')}"
        for name, one in labels["splits"].items()
    )
    how = "validation chooses, the test is reported" if "test" in labels["splits"] else "validation patients in halves"
    yield f"with labels: {counts}; {how}; windows of {labels['window_px']} px at {labels['mpp']:g} um/px"


def _how_tissue(tissue: dict[str, Any]) -> Iterator[str]:
    fine, coarse = tissue["mpps"]
    yield (
        f"without labels: {tissue['n_nuclei']:,} nuclei of {count_noun(tissue['n_images'], 'image')} of "
        f"{count_noun(tissue['n_patients'], 'patient')}, at {fine:g} and {coarse:g} um/px; "
        f"by chance {tissue['chance']:.1f} and 50 %"
    )
    same, different = (tissue["rows"][1][f"cosine_{which}"] for which in ("same", "different"))
    yield "; ".join(
        f"{side}: cosine {same[side]:.3f} with itself turned or stained anew, {different[side]:.3f} with others"
        for side in ("before", "after")
    )
