"""The settings of PSM, which trains a detector on unlabelled tissue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from muse_pipeline.core.config import Between, Count, Fraction, Mpp, NotNegative, OneOf
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.augment import Augmentation, Seed
from muse_pipeline.data.unlabelled import UnlabelledSource
from muse_pipeline.methods.detector.config import ColourMethod, ExportSettings
from muse_pipeline.methods.psm.activation_map import MaskSettings
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
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=100, learning_rate=1e-3, save_every=50)
    )
    window_px: Count = 128
    batch: Annotated[int, Between(2)] = 8


@dataclass(frozen=True)
class LabelSettings:
    """Conversion of masks to instances; masks are cut at necks and pale lines.

    Attributes:
        min_area_um2: minimum area of an instance; smaller ones are dropped.
    """

    min_area_um2: NotNegative = 12.0


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
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=1500, save_every=250))
    augmentation: Augmentation = field(default_factory=Augmentation)
    export: ExportSettings = field(default_factory=ExportSettings)


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
        mask_settings: settings of the masks; "otsu" uses only ``max_share``.
        windows_per_store: windows drawn at random from each store; pictures are used whole.
        store_window_px: side of the windows drawn from stores.
        seed: seed of weights and windows.
        activation: first stage, for ``masks: activation`` only.
        labels: settings of the conversion of masks to instances.
        detector: the instance network.
        self_training: last stage, which trains on the detector's own detections.
        method: name of the method, "psm".
    """

    sources: tuple[UnlabelledSource, ...]
    mpp: Mpp = 0.5
    masks: Annotated[str, OneOf(MASKS)] = "otsu"
    mask_settings: MaskSettings = field(default_factory=MaskSettings)
    windows_per_store: Count = 64
    store_window_px: Annotated[int, Between(64, 4096)] = 512
    seed: Seed = 0
    activation: ActivationSettings = field(default_factory=ActivationSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    self_training: SelfTrainingSettings = field(default_factory=SelfTrainingSettings)
    method: str = "psm"

    def __post_init__(self) -> None:
        unread = {
            **vars(self.mask_settings),
            "max_share": MaskSettings().max_share,
        }  # max_share applies to all masks
        if self.masks != "activation" and (
            changed := dict(unread.items() - vars(MaskSettings()).items())
        ):
            raise ConfigError(
                f"mask_settings.{min(changed)} is a setting of `masks: activation`, but `masks` is"
                f" '{self.masks}'"
            )
