"""The settings of PSM, which trains a detector on unlabelled tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from muse_pipeline.core.config import Between, Count, Fraction, Mpp, OneOf
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.augment import Augmentation, Seed
from muse_pipeline.data.unlabelled import UnlabelledSource
from muse_pipeline.methods.detector.config import ColourMethod, ExportSettings
from muse_pipeline.methods.psm.activation_map import ClusterSettings
from muse_pipeline.training.devices import Precision
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.recipe import ModelSettings

MASKS = ("otsu", "activation")


@dataclass(frozen=True)
class ActivationSettings:
    """First stage: training of the activation network; skipped if masks are made without it.

    Attributes:
        backbone: registered name of a backbone with a stage at stride 4.
        schedule: length and learning rate.
        window_px: side of a training window.
        batch: windows per step.
    """

    backbone: str = "shallow_cnn"
    schedule: Schedule = Schedule(steps=100, learning_rate=1e-3, save_every=50)
    window_px: Count = 128
    batch: Annotated[int, Between(2)] = 8


@dataclass(frozen=True)
class DetectorSettings:
    """The instance network, a detector with the class "Nucleus".

    Attributes:
        backbone: registered name of the backbone.
        head: registered name of the head.
        n_rays: rays per outline.
        colour: "macenko": normalise the stains of a slide; "identity": leave them.
        window_px: side of a training window.
        batch: windows per batch and device.
        precision: "32-true" or "bf16-mixed".
        schedule: length and learning rate.
        augmentation: strength of the augmentation.
        export: settings of the exported model.
    """

    backbone: str = "muse_compact_48"
    head: str = "dense"
    n_rays: int = 32
    colour: ColourMethod = "macenko"
    window_px: int = 256
    batch: int = 4
    precision: Precision = "bf16-mixed"
    schedule: Schedule = Schedule(steps=1500, save_every=250)
    augmentation: Augmentation = Augmentation()
    export: ExportSettings = ExportSettings()


@dataclass(frozen=True)
class SelfTrainingSettings:
    """Last stage: each round trains a new detector on the detections of the previous one.

    Attributes:
        rounds: number of rounds; 0 skips the stage.
        threshold: minimum score of detections used as labels; by default below that of
            ``detector.export``, so that each round finds more nuclei.
    """

    rounds: Annotated[int, Between(0, 10)] = 1
    threshold: Fraction = 0.35


@dataclass(frozen=True)
class PsmConfig(ModelSettings):
    """Settings of a run that trains a detector on unlabelled tissue.

    Settings that are not described here are those of ``ModelSettings``.

    Attributes:
        sources: unlabelled tissue.
        mpp: um per pixel of all networks.
        masks: "otsu": a threshold on haematoxylin; "activation": PSM's own activation maps.
        clusters: settings of the masks with ``masks: activation``; docs/guide/label-free.md lists
            those of the two releases.
        windows_per_store: windows drawn at random from each store; pictures are used whole.
        seed: seed of weights and windows.
        activation: first stage, for ``masks: activation`` only.
        detector: the instance network.
        self_training: last stage, which trains on the detector's own detections.
        method: name of the method, "psm".
    """

    sources: tuple[UnlabelledSource, ...]
    mpp: Mpp = 0.5
    masks: Annotated[str, OneOf(MASKS)] = "otsu"
    clusters: ClusterSettings = ClusterSettings()
    windows_per_store: Count = 64
    seed: Seed = 0
    activation: ActivationSettings = ActivationSettings()
    detector: DetectorSettings = DetectorSettings()
    self_training: SelfTrainingSettings = SelfTrainingSettings()
    method: str = "psm"

    def __post_init__(self) -> None:
        if self.masks != "activation" and self.clusters != ClusterSettings():
            raise ConfigError(
                f"clusters is a setting of `masks: activation`, but `masks` is '{self.masks}'"
            )
