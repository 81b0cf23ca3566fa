"""The settings of UNITPathSSL's networks, losses and schedule, each with its provenance.

"paper" is stated by the paper or its official pages; "code" was read in the authors' settings files; "secondary" is
a re-implementation or project page by others; "ours" is a choice of this project.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from muse_pipeline.core.config import require_between, require_one_of

ADVERSARIAL = ("least squares", "logistic")
INITS = ("random", "checkpoint")


@dataclass(frozen=True)
class GeneratorSettings:
    """The co-modulated generator, see ``models.co_modulated``.

    Attributes:
        base: channels at stride 1.
        most: largest number of channels.
        levels: halvings.
        noise_dim: of z.
        style_dim: of w.
        code_dim: of the mask's code.
        mapping_layers: of the perceptron from z to w.
        skip_stride: skips from encoder to decoder at this stride and above.
        dropout: of the code.
    """

    base: int = 64  # code: min(16384 / resolution, 512) channels, which is 64 at 256 px
    most: int = 512  # code
    levels: int = 6  # code: from 256 to 4 px
    noise_dim: int = 512  # code
    style_dim: int = 512  # code
    code_dim: int = 1024  # code
    mapping_layers: int = 8  # code ("paper256")
    skip_stride: int = 4  # code: SKIP_RESOLUTION 64 of 256 px
    dropout: float = 0.5  # code

    def __post_init__(self) -> None:
        require_between(self, "generator", base=(1, 1024), levels=(1, 8), mapping_layers=(1, 16), dropout=(0, 1))


@dataclass(frozen=True)
class ReaderSettings:
    """The reader S, see ``models.reader``.

    Attributes:
        backbone: registered name.
        n_rays: of the instance head.
        widths: channels of the translation head at strides 4 and 2.
        init: "random", or "checkpoint": a backbone that was trained before.
    """

    backbone: str = "muse_compact_48"  # ours; code: ResNet-50 with a feature pyramid and group norm
    n_rays: int = 32  # ours; code: Mask R-CNN
    widths: tuple[int, int] = (128, 64)  # code
    init: str = (
        "random"  # not certain: the authors' ladder starts from an unnamed weight file, the main config does not
    )

    def __post_init__(self) -> None:
        require_between(self, "reader", n_rays=(4, 256))
        require_one_of(self, "reader", init=INITS)


@dataclass(frozen=True)
class DiscriminatorSettings:
    """A discriminator and its loss, see ``models.patch_discriminator``.

    Attributes:
        widths: channels of the strided convolutions.
        loss: "least squares", or "logistic" with R1.
        r1_gamma: weight of R1.
        r1_every: steps from one penalty to the next, which counts that many times as much.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)  # code, of masks; of pictures ours (code: StyleGAN2's residual one)
    loss: str = "least squares"  # code, of masks
    r1_gamma: float = 1.0  # code, of pictures
    r1_every: int = 16  # ours, as StyleGAN2

    def __post_init__(self) -> None:
        require_between(self, "discriminator", r1_gamma=(0, math.inf), r1_every=(1, math.inf))
        require_one_of(self, "discriminator", loss=ADVERSARIAL)


@dataclass(frozen=True)
class AdaSettings:
    """Adaptive augmentation before the discriminator of pictures, see ``losses.adaptive_augmentation``.

    Attributes:
        target: of the mean sign of real scores.
        pictures: that take the probability from 0 to 1.
    """

    target: float = 0.6  # ADA paper
    pictures: int = 500_000  # ADA paper

    def __post_init__(self) -> None:
        require_between(self, "ada", target=(-1, 1), pictures=(1, math.inf))


@dataclass(frozen=True)
class Weights:
    """Of the objective, see ``losses.unit``; names are those of its terms."""

    picture_gan: float = 1.0  # code
    mask_gan: float = 1.0  # code; secondary: 2
    cycle: float = 10.0  # code and secondary
    instances: float = 6.0  # code; secondary: 2
    diversity: float = 0.0  # ours; the paper has none
    painted: float = 0.0  # ours; the paper has none

    def __post_init__(self) -> None:
        for name in ("picture_gan", "mask_gan", "cycle", "instances", "diversity", "painted"):
            require_between(self, "weights", **{name: (0, math.inf)})


@dataclass(frozen=True)
class StageSettings:
    """One of both stages.

    Attributes:
        steps: of generators and discriminators, in turns.
        learning_rate: of generator and reader.
        discriminator_rate: learning rate of the discriminators, relative to it.
    """

    steps: int
    learning_rate: float
    discriminator_rate: float = 1.0  # code

    def __post_init__(self) -> None:
        require_between(self, "stage", steps=(1, math.inf), learning_rate=(0, 1))
        require_between(self, "stage", discriminator_rate=(0, math.inf))


@dataclass(frozen=True)
class UnitSettings:
    """All of it. The second stage begins with a fresh reader and a fresh discriminator of masks (code, secondary).

    Attributes:
        window_px: side of windows of both domains.
        batch: windows of each domain per step.
        betas: of Adam.
        eps: of Adam.
        replay: rendered masks that the discriminator of masks also sees, from earlier steps.
        diversity_limit: see ``losses.diversity_sensitive``.
        masks: synthesised masks to draw windows from.
        mask_px: side of a mask.
    """

    window_px: int = 256  # code
    batch: int = 12  # code; secondary: 24
    betas: tuple[float, float] = (0.0, 0.99)  # secondary; older code: (0.9, 0.999)
    eps: float = 1e-8  # secondary
    replay: int = 50  # older code
    diversity_limit: float = 0.5  # ours
    masks: int = 10_800  # code
    mask_px: int = 320  # code: windows are 0.8 of a tile
    first: StageSettings = field(default_factory=lambda: StageSettings(40_000, 4e-4))  # secondary; code: about 25,700
    second: StageSettings = field(default_factory=lambda: StageSettings(25_000, 1e-4))  # secondary; code: the rate
    weights: Weights = field(default_factory=Weights)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    reader: ReaderSettings = field(default_factory=ReaderSettings)
    pictures: DiscriminatorSettings = field(default_factory=lambda: DiscriminatorSettings(loss="logistic"))  # code
    mask_discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    ada: AdaSettings | None = None  # code: on; ours: needed below some 5,000 tiles alone

    def __post_init__(self) -> None:
        require_between(self, "", window_px=(16, 4096), batch=(1, math.inf), replay=(0, math.inf), masks=(1, math.inf))
        require_between(self, "", mask_px=(self.window_px, 8192), eps=(0, 1), diversity_limit=(0, math.inf))
