"""Did it help: one backbone against another, with labels, without, or both; figures, verdicts and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.errors import ConfigError
from muse_pipeline.evaluation.paired import FEW, MIN_PATIENTS
from muse_pipeline.files import write_json
from muse_pipeline.training.compare_labels import DRAWS, compare_on_labels
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.finetune_config import FinetuneConfig, require_window
from muse_pipeline.training.probe_data import read_probe_data
from muse_pipeline.training.probe_protocols import KNN
from muse_pipeline.training.probed_network import ProbedNetwork, backbone_name, open_network
from muse_pipeline.training.probing import ProbeSettings

SIDES = ("before", "after")


@dataclass(frozen=True)
class CompareSettings(ProbeSettings):
    """How two backbones are compared.

    Attributes:
        draws: of patients, for fewer labels than all.
    """

    draws: int = DRAWS


def compare(
    config: FinetuneConfig,
    networks: Sequence[ProbedNetwork],
    test: Sequence[LabelSource],
    settings: CompareSettings,
    output: Path,
    accelerator: str = "auto",
    threads: int = 1,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Compare ``networks`` = (before, after); ``compare.json`` and pictures are written to ``output``.

    Args:
        config: its classes, mpp and sources are used.
        networks: the two.
        test: labelled pictures to report on; without, the validation's patients in halves.
        settings: how.
        output: folder.
        accelerator: one of ``devices.ACCELERATORS``.
        threads: on a CPU.
        say: called with sentences on progress.

    Raises:
        ConfigError: there is no validation, the window does not suit a backbone, or a class has no nucleus.
        LabelError: labels cannot be read, or patients are on both sides or were trained on.
    """
    torch.set_num_threads(threads)
    device = open_fabric(accelerator, 1, "32-true").device
    for network in networks:
        require_window(settings.window_px, network.backbone, network.name)
    data = read_probe_data(config, test, settings.shared_patients, settings.window_px)
    notes = [note for network in networks for note in data.check_unseen(network, settings.shared_patients)]
    labels = compare_on_labels(
        data, networks, config.classes, config.mpp, settings, settings.draws, device, output, say
    )
    result = {
        **{side: _describe(network) for side, network in zip(SIDES, networks, strict=True)},
        "answers": [_answer_by_labels(labels)],
        "with_labels": labels,
        "notes": notes,
    }
    write_json(output / "compare.json", result)
    return result


def open_networks(
    before: Path | None, after: Path | None, named: str | None, default: str, trust_pickle: bool = False
) -> tuple[ProbedNetwork, ProbedNetwork]:
    """Both networks, each of the kind that its checkpoint says.

    Args:
        before: checkpoint; None: random weights.
        after: checkpoint; None: random weights.
        named: backbone of a checkpoint that does not say its own, and of random weights; these are otherwise of the
            other checkpoint's kind.
        default: where nobody says.
        trust_pickle: see ``initial.load_backbone``.

    Raises:
        CheckpointError: a checkpoint is not there or does not fit.
        ConfigError: both are random.
    """
    paths = before, after
    if before is None and after is None:
        raise ConfigError("--before and --after are both untrained; name the checkpoint that is asked about")
    own = [None if path is None else backbone_name(path, trust_pickle) for path in paths]
    other = own[::-1]
    return tuple(
        open_network(
            own[side] or named or (other[side] if paths[side] is None else None) or default, paths[side], trust_pickle
        )
        for side in (0, 1)
    )


def _describe(network: ProbedNetwork) -> dict[str, str]:
    return {"backbone": network.name, "weights": network.weights, "colour": network.reference.method}


def _answer_by_labels(labels: dict[str, Any]) -> dict[str, str]:
    """By nearest neighbours from all labels, which trains nothing: fixed before anything is looked at."""
    row = next(row for row in labels["rows"] if row["protocol"] == KNN and row["share"] == 1)
    return say_answer("With labels", "of nuclei get the right class from their nearest neighbours", row["accuracy"])


def say_answer(where: str, what: str, score: dict[str, Any]) -> dict[str, str]:
    """The verdict in sentences.

    Args:
        where: "With labels".
        what: follows a number of percent.
        score: see ``evaluation.paired.compare_scores``.
    """
    n = score["n_patients"]
    patients = f"{n} {'patient' if n == 1 else 'patients'}"
    needed = f" ({patients}, where {MIN_PATIENTS} are needed)" if score["verdict"] == FEW else ""
    low_high = score["interval"]
    interval = f", 95 % interval {low_high[0]:+.1f} to {low_high[1]:+.1f} over {patients}" if low_high else ""
    sentence = (
        f"{where}: {score['verdict']}{needed}. {score['after']:.1f} % {what}, before it {score['before']:.1f} % "
        f"({score['difference']:+.1f} points{interval})."
    )
    return {"where": where, "verdict": score["verdict"], "sentence": sentence}
