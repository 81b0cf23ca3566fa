"""The settings of a TriDeNT run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from muse_pipeline.core.config import Between, NotNegative, OneOf
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.data.partners import PairedSource, PartnerSource
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.methods.detector.config import require_windows
from muse_pipeline.methods.muse.config import MuseConfig, require_sound
from muse_pipeline.methods.muse.method import SelfDistillationSettings

LOSSES = ("vicreg", "infonce")
Width = Annotated[int, Between(2, 1 << 16)]


@dataclass(frozen=True)
class AlignmentSettings:
    """Losses that make branches agree.

    Attributes:
        branches: 3 aligns two H&E views and the partner (TriDeNT), 2 one H&E view and the partner (More From Less), 1
            two H&E views alone (a Siamese network, as a control).
        loss: "vicreg" or "infonce".
        image_weight: weight of the loss over image vectors; 0 turns it off.
        nucleus_weight: weight of the loss over features at nuclei that both H&E views share; 0 turns it off.
        invariance: weight of the term in VICReg.
        variance: weight of the term in VICReg.
        covariance: weight of the term in VICReg.
        temperature: softmax temperature of InfoNCE.
        hidden: width of the two inner layers of the projectors.
        width: length of the vectors that are compared.
        max_nuclei: largest number of nuclei of a batch that are compared, drawn from all.
    """

    branches: Annotated[int, Between(1, 3)] = 3
    loss: Annotated[str, OneOf(LOSSES)] = "vicreg"
    image_weight: NotNegative = 1.0
    nucleus_weight: NotNegative = 0.0
    invariance: NotNegative = 25.0
    variance: NotNegative = 25.0
    covariance: NotNegative = 1.0
    temperature: Annotated[float, Between(1e-3, 10)] = 0.5
    hidden: Width = 1024
    width: Width = 1024
    max_nuclei: Annotated[int, Between(2, 1 << 20)] = 4096

    def __post_init__(self) -> None:
        if not self.image_weight and not self.nucleus_weight:
            raise ConfigError("alignment: image_weight and nucleus_weight are both 0; nothing would be learnt")


@dataclass(frozen=True)
class TridentConfig(MuseConfig):
    """A run on H&E tissue with partners. Settings that are not described here are those of ``MuseConfig``.

    Attributes:
        backbone: registered name of the H&E network.
        sources: H&E tissue with nucleus positions, each with or without a ``partner``.
        alignment: losses that make branches agree.
        partner_backbone: registered name of the network that reads pictures; that of ``backbone`` when not given.
        distillation: settings of MUSE. When given, MUSE's loss on the same views is added, and its teacher is the
            run's result.
        weight: factor of the alignment loss when MUSE's loss is added.
        checkpoint: initial weights of the H&E network, as in ``MuseConfig``.
        views: settings of H&E views; local views are for MUSE's loss alone, and there are none without it.
        method: "trident".
    """

    sources: tuple[PairedSource, ...]
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    partner_backbone: str | None = None
    distillation: SelfDistillationSettings | None = None
    weight: NotNegative = 0.004
    views: ViewSettings = field(default_factory=lambda: ViewSettings(n_local=0))
    batch: Annotated[int, Between(2)] = 16
    method: str = "trident"

    def pair(self, source: NucleusSource, partner: Path | None) -> PairedSource:
        """A slide of a cohort as a source, with the store of its partner if it has one."""
        is_used = partner is not None and self.alignment.branches > 1
        return PairedSource(**vars(source), partner=PartnerSource(store=partner) if is_used else None)


def require_sound_pairs(config: TridentConfig) -> None:
    """Reject settings that the networks cannot take, before any data is read.

    Raises:
        ConfigError: a setting is wrong.
    """
    require_sound(config)
    if config.alignment.branches > 1 and all(source.partner is None for source in config.sources):
        raise ConfigError(
            f"sources: none has a `partner`, which {config.alignment.branches} branches need; add it (of a slide in a "
            "sheet: in its column `partner`), or set `alignment.branches` to 1"
        )
    if config.partner_backbone is not None:
        require_windows(config.partner_backbone, config.views.global_px)
    if config.distillation is None and config.views.n_local:
        raise ConfigError(f"views: n_local is {config.views.n_local}, and local views need MUSE's loss; set it to 0")
