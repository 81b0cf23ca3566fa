"""UNITPathSSL's training: translation between masks and tissue, guided by the masks' instances."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from muse_pipeline.data.augment import Augmentation, LabelledBatch, vary_appearance, vary_colour
from muse_pipeline.methods.detector.criterion import DenseCriterion
from muse_pipeline.methods.unit.config import DiscriminatorSettings, UnitConfig
from muse_pipeline.methods.unit.data import UnitBatch
from muse_pipeline.methods.unit.losses import (
    LeastSquares,
    Logistic,
    cycle_loss,
    painted_loss,
    r1_penalty,
)
from muse_pipeline.methods.unit.translation import (
    CoModulatedGenerator,
    MaskReader,
    PatchDiscriminator,
)
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.method import Losses, Method, Schedule

LOSSES = {"least squares": LeastSquares, "logistic": Logistic}
# number of windows used for diagnostics, and their colour variation
GAUGED, GAUGE_VARIATION = 2, Augmentation()
INSIDE = -0.5  # pixels of predicted masks that exceed this in any channel belong to nuclei
BETAS = 0.0, 0.99  # of Adam, in a re-implementation; older code: (0.9, 0.999)
PRIOR_FALLS = 0.25  # share of the first stage over which the weight of the colour prior changes


class Translation(NamedTuple):
    """Outputs of the networks for one batch."""

    rendered: Tensor  # (B, 3, S, S) tissue rendered from the masks, 0 to 255
    grain: Tensor  # (B, 1, S, S) grain used for ``rendered``
    mask_again: Tensor  # (B, 3, S, S) mask read from the rendered tissue
    read: Tensor  # (B, 3, S, S) mask read from real tissue
    picture_again: Tensor  # (B, 3, S, S) tissue rendered from ``read``, 0 to 255
    instances: Tensor  # loss of the nuclei found in rendered tissue


def to_unit(pixels: Tensor) -> Tensor:
    """Map values from 0 to 255 to values from -1 to 1."""
    return (pixels - 127.5) / 127.5


class UnitTraining(Method):
    """Training in two alternating turns: generator and reader, then both discriminators.

    ``palette`` (2, 3), 0 to 255, are the colours of nuclei and background for the colour prior;
    ``stains`` (2, 3) those along which colour is varied, haematoxylin first.
    """

    turns = ("generator", "discriminator")

    def __init__(self, config: UnitConfig, palette: np.ndarray, stains: np.ndarray):
        super().__init__()
        self.config = config
        self.generator = CoModulatedGenerator(config.generator)
        reader = config.reader
        self.reader = MaskReader(reader.backbone, reader.n_rays, reader.widths)
        self.picture_discriminator = build_discriminator(config.pictures)
        self.mask_discriminator = build_discriminator(config.mask_discriminator)
        self.criterion = DenseCriterion(config.mpp, torch.ones(1))
        self.prior_falls = True
        self.register_buffer("palette", to_unit(torch.from_numpy(palette)))
        self.register_buffer("stains", torch.from_numpy(stains).float())
        # A buffer, so that penalties and diagnostics keep their intervals when a run is resumed.
        self.register_buffer("step", torch.zeros((), dtype=torch.float64))
        # rendered tissue and predicted masks for the other turn
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def turn_parameters(self, turn: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of generator and reader, or of both discriminators, as in ``Method``."""
        judges = turn == "discriminator"
        parameters = super().turn_parameters(turn)
        return (
            pair for pair in parameters if pair[0].split(".")[0].endswith("discriminator") == judges
        )

    def optimiser(self, turn: str, schedule: Schedule) -> torch.optim.Optimizer:
        """Adam, with a separate learning rate for the discriminators."""
        factor = self.config.discriminator_rate if turn == "discriminator" else 1.0
        group = {
            "params": [parameter for _, parameter in self.turn_parameters(turn)],
            "factor": factor,
        }
        return torch.optim.Adam([group], schedule.learning_rate, BETAS)

    def losses(self, batch: UnitBatch, turn: str, progress: float) -> Losses:
        """Compute losses as in ``Method``; the discriminators score outputs of the same step's
        generator turn.

        The generator's is ``L = L_GAN(G) + l1 L_GAN(S) + l2 L_cyc(G, S) + l3 L_seg(S o G) + l4
        L_painted(G)``; we added the last term. ``L_seg`` is the instance loss of the reader S on
        rendered pictures; its targets are the instances of the masks that the pictures were
        rendered from. These pictures are not detached, so the loss trains both networks: G must
        render nuclei that S can separate.
        """
        if turn == "discriminator":
            return self._judge(batch, *self._outputs.pop(0))
        outputs = self.translate(batch)
        self._outputs.append((outputs.rendered.detach(), outputs.read.detach()))
        terms, weights = self._terms(batch, outputs), self._weights(progress)
        loss = sum(weights[name] * term for name, term in terms.items())
        is_gauged = int(self.step) % self.config.schedule.log_every == 0
        return {"loss": loss, **terms, **(self._gauges(batch, outputs) if is_gauged else {})}

    def translate(self, batch: UnitBatch) -> Translation:
        """Compute both cycles: mask to tissue to mask, and tissue to mask to tissue."""
        n = len(batch.masks)
        device = batch.masks.device
        noise, grain = self.draw_noise(n, batch.masks.shape[-1], device)
        rendered = self.generator(batch.masks, noise, grain).float()
        seen, colour = self._vary(rendered)
        with kept_statistics(self.reader):
            mask_again, nuclei = self.reader(seen, colour)
        read, _ = self.reader(*self._vary(batch.pictures))
        labels = LabelledBatch(seen, colour, batch.xy, batch.label, batch.rays)
        picture_again = self.generator(read, *self.draw_noise(n, read.shape[-1], device)).float()
        instances = self.criterion(nuclei, labels)["loss"]
        return Translation(rendered, grain, mask_again, read, picture_again, instances)

    def vary_colour(self, n: int) -> Tensor:
        """(n, 3, 4) colour maps that vary stains for diagnostics."""
        same = torch.eye(3, 4, device=self.stains.device).expand(n, 3, 4)
        return vary_colour(same, self.stains, GAUGE_VARIATION, torch.default_generator)

    def draw_noise(self, n: int, side_px: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw (n, Z) noise and (n, 1, S, S) grain for the generator."""
        noise = torch.randn(n, self.generator.noise_dim, device=device)
        return noise, torch.randn(n, 1, side_px, side_px, device=device)

    def trained(self) -> NucleusDetector:
        """Backbone and instance head of the reader."""
        return self.reader.detector()

    def after_step(self, progress: float) -> None:
        """Count the step."""
        self.step += 1

    def _vary(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented input and colour maps of the reader; noise keeps the generator from hiding
        codes in pictures.
        """
        same = torch.eye(3, 4, device=pictures.device).expand(len(pictures), 3, 4)
        config = self.config
        # bfloat16 is too coarse for grey levels
        with torch.autocast(pictures.device.type, enabled=False):
            strength = config.mpp, config.augmentation
            return vary_appearance(pictures, same, self.stains, *strength, torch.default_generator)

    def _terms(self, batch: UnitBatch, outputs: Translation) -> Losses:
        rendered = to_unit(outputs.rendered)
        gan = LOSSES[self.config.pictures.loss]
        mask_gan = LOSSES[self.config.mask_discriminator.loss]
        terms = {
            "picture_gan": gan.of_generator(self.picture_discriminator(rendered)),
            "mask_gan": mask_gan.of_generator(self.mask_discriminator(outputs.read)),
            "cycle": cycle_loss(
                batch.masks,
                outputs.mask_again,
                to_unit(batch.pictures),
                to_unit(outputs.picture_again),
            ),
            "instances": outputs.instances,
        }
        if max(self.config.weights.painted):
            terms["painted"] = painted_loss(rendered, batch.masks, *self.palette)
        return terms

    def _weights(self, progress: float) -> dict[str, float]:
        """Weights of the terms; that of the colour prior changes at the start of the first
        stage.
        """
        first, last = self.config.weights.painted
        fallen = min(1.0, progress / PRIOR_FALLS) if self.prior_falls else 1.0
        return {**vars(self.config.weights), "painted": first + (last - first) * fallen}

    def _judge(self, batch: UnitBatch, rendered: Tensor, read: Tensor) -> Losses:
        """Losses of both discriminators, and the mean scores of real and rendered pictures."""
        # Copies, because both turns use the same batch, whose tensors must not require gradients.
        real, masks = to_unit(batch.pictures), batch.masks.clone()
        real.requires_grad_(self._is_penalised(self.config.pictures))
        masks.requires_grad_(self._is_penalised(self.config.mask_discriminator))
        real_score = self.picture_discriminator(real)
        score = self.picture_discriminator(to_unit(rendered))
        mask_scores = self.mask_discriminator(masks), self.mask_discriminator(read)
        pictures = LOSSES[self.config.pictures.loss].of_discriminator(real_score, score)
        of_masks = LOSSES[self.config.mask_discriminator.loss].of_discriminator(*mask_scores)
        loss = pictures + of_masks
        for settings, inputs, scores in (
            (self.config.pictures, real, real_score),
            (self.config.mask_discriminator, masks, mask_scores[0]),
        ):
            if inputs.requires_grad:
                loss = loss + settings.r1_every * r1_penalty(inputs, scores, settings.r1_gamma)
        scores = {"real_score": real_score.mean(), "rendered_score": score.mean()}
        return {"loss": loss, "pictures": pictures, "masks": of_masks, **scores}

    def _is_penalised(self, settings: DiscriminatorSettings) -> bool:
        return settings.loss == "logistic" and int(self.step) % settings.r1_every == 0

    @torch.no_grad()
    def _gauges(self, batch: UnitBatch, outputs: Translation) -> Losses:
        """Diagnostics of collapse.

        ``diversity_of_noise`` is the mean difference in grey levels between two renderings of a
        mask; ``agreement``, the correlation between nuclear pixels found in the same tissue in two
        colours, 0 if all or no pixels are nuclear; ``contrast``, the standard deviation of rendered
        pixels relative to real ones.
        """
        # The first rendering's grain is reused, so that only the noise differs.
        noise, _ = self.draw_noise(GAUGED, batch.masks.shape[-1], batch.masks.device)
        other = self.generator(
            batch.masks[:GAUGED], noise[: len(batch.masks)], outputs.grain[:GAUGED]
        )
        return {
            "diversity_of_noise": (other - outputs.rendered[:GAUGED]).abs().mean(),
            "agreement": self._agreement(batch.pictures[:GAUGED]),
            "contrast": outputs.rendered.std() / batch.pictures.std().clamp(min=1),
        }

    def _agreement(self, pictures: Tensor) -> Tensor:
        self.reader.eval()
        colours = (self.vary_colour(len(pictures)) for _ in range(2))
        read = torch.stack(
            [(self.reader(pictures, colour).mask.amax(1) > INSIDE).flatten() for colour in colours]
        )
        self.reader.train()
        return torch.corrcoef(read.float())[0, 1].nan_to_num()


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running statistics of ``network`` unchanged within the block; batch norms use those
    of the batch.

    Rendered and real tissue differ in contrast and colour, so they are normalised separately, and
    the detector keeps the statistics of real tissue, on which it will be used.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def build_discriminator(settings: DiscriminatorSettings) -> PatchDiscriminator:
    """Build a discriminator, without normalisation layers if its loss has a gradient penalty."""
    return PatchDiscriminator(settings.widths, norm=settings.loss == "least squares")
