"""The run for TriDeNT and More From Less, which trains an H&E backbone on tissue with partners."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import draw_page, write_png
from muse_pipeline.core.text import count_noun
from muse_pipeline.methods.muse.data import PretrainData, read_pretrain_data
from muse_pipeline.methods.muse.method import MusePretraining
from muse_pipeline.methods.muse.run import INDEX, MuseStage, make_batches
from muse_pipeline.methods.trident.method import Trident, TridentConfig, require_sound_pairs
from muse_pipeline.methods.trident.partners import (
    PairBatch,
    PairBatches,
    Partner,
    failure_of,
    open_partner,
)
from muse_pipeline.models import BACKBONES
from muse_pipeline.training.loop import Alarm, Monitor
from muse_pipeline.training.method import Method, WeightedSum
from muse_pipeline.training.recipe import RECIPES, Recipe, Stage
from muse_pipeline.training.run import Inputs, Log


@dataclass(frozen=True, eq=False)
class PairedData(PretrainData):
    """The N images with at least ``min_nuclei`` nuclei, and their partners."""

    partners: list[Partner | None]  # partner of each image; None for images that have none


def read_paired_data(config: TridentConfig, folder: Path, log: Log) -> PairedData:
    """Open every source and the partners of its images (``muse.data.read_pretrain_data`` and
    ``open_partner``).
    """
    data = read_pretrain_data(config.sources, config.views.mpp[0], config.min_nuclei, folder, log)
    wanted = [source.partner if config.alignment.branches > 1 else None for source in data.sources]
    partners = [
        None if source is None else open_partner(source, image, folder)
        for source, image in zip(wanted, data.images, strict=True)
    ]
    stores = [source for source in wanted if source and source.store]
    failures = {source: failure for source in stores if (failure := failure_of(source.store))}
    _require_partners(wanted, partners, [*failures.values()])
    for source, failure in failures.items():
        log(f"{source.store.parent.parent.name}: trained without its partner: {failure}")
    return PairedData(**vars(data), partners=partners)


def _require_partners(sources: list, partners: list[Partner | None], failures: list[str]) -> None:
    """Reject a folder of partners without a file for any picture, and a run in which no partner
    could be registered.
    """
    for source in dict.fromkeys(source for source in sources if source and source.store is None):
        of_source = [
            partner for wanted, partner in zip(sources, partners, strict=True) if wanted == source
        ]
        if all(partner is None for partner in of_source):
            raise ConfigError(
                f"{source.location}: has no file for any of {len(of_source)} pictures; give each"
                " partner the name of its picture"
            )
    if failures and not any(partners):
        raise ConfigError(
            "sources: no slide has a partner that could be registered"
            f" ({count_noun(len(failures), 'failure')}, first: {failures[0]}); correct the"
            " partners, or set `alignment.branches` to 1"
        )


@RECIPES.register("trident")
class TridentRecipe(Recipe):
    """Trains an H&E backbone on H&E tissue with partners, in one stage."""

    Config = TridentConfig

    def complete(self, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """If MUSE's losses are not used, turn off local views unless the config sets their
        number.
        """
        views = values.get("views") or {}
        if values.get("distillation") is None and isinstance(views, dict):
            values = {**values, "views": {"n_local": 0, **views}}
        return values

    def stages(self, config: TridentConfig, folder: Path) -> Sequence[Stage]:
        """Return the only stage, the training."""
        return (TridentStage(config, folder),)


class TridentStage(MuseStage):
    """Trains H&E and partner branches on a joint loss; everything else is as in MUSE's
    pretraining.
    """

    config: TridentConfig

    def check(self) -> None:
        """Reject wrong settings (``config.require_sound_pairs``)."""
        require_sound_pairs(self.config)

    def inputs(self) -> Inputs:
        """The inputs of a MUSE run, and the partners."""
        of_muse = super().inputs()
        partners = [source.partner for source in self.config.sources if source.partner is not None]
        return dataclasses.replace(of_muse, sources=(*of_muse.sources, *partners))

    def open_data(self, log: Log) -> PairedData:
        """Open the images and their partners (``read_paired_data``)."""
        return read_paired_data(self.config, self.folder / INDEX, log)

    def build(self, data: PairedData) -> Method:
        """Build the H&E backbone, with the weights of the checkpoint if any, and a random network
        for the partner.
        """
        config, settings = self.config, self.config.alignment
        backbone = self.build_backbone()
        partner = None
        if settings.branches > 1:
            partner = BACKBONES[config.partner_backbone or config.backbone]()
        trident = Trident(backbone, partner, settings)
        if config.distillation is None:
            return trident
        muse = MusePretraining(backbone, config.distillation, config.views.n_local)
        return WeightedSum(
            {"muse": muse, "trident": trident}, {"muse": 1.0, "trident": config.weight}
        )

    def batches(self, data: PairedData, device: torch.device) -> PairBatches:
        """Batches of views with their partners."""
        return PairBatches(super().batches(data, device), data.images, data.partners)

    def finish_batch(self, batch: PairBatch) -> PairBatch | dict[str, Any]:
        """Cut the views on the device; with MUSE's losses, return the batches of both methods,
        keyed by name.
        """
        batch = batch._replace(views=super().finish_batch(batch.views))
        if self.config.distillation is None:
            return batch
        return {"muse": batch.views, "trident": batch}

    def describe(self, data: PairedData, log: Log) -> None:
        """Print a summary of the training data, and draw some views and pairs."""
        super().describe(data, log)
        if self.config.alignment.branches == 1:
            return
        n_partners = sum(partner is not None for partner in data.partners)
        log(f"{n_partners} of {len(data.images)} images have partners")
        batch = PairBatches(make_batches(self.config, data), data.images, data.partners)(0)
        draw_pairs(batch, self.run_folder.path / "pairs.png")

    def monitors(self, data: PairedData, method: Method) -> Sequence[Monitor]:
        """An alarm for collapse and, if labelled nuclei are held out, scores of the H&E
        backbone.
        """
        return (SpreadAlarm(self.config.schedule, self.folder), *self.validation(data, method))


LEAST_SPREAD = 0.05  # minimum spread (``method.measure_spread``) in a run that still learns


class SpreadAlarm(Alarm):
    """Ends a run in which all H&E vectors become similar."""

    def check(self, done: int, losses: dict[str, float]) -> None:
        """Compare the spread of each level with ``LEAST_SPREAD``."""
        for name, value in losses.items():
            if name.endswith("_spread"):
                meaning = (
                    "all vectors are alike; start a new run folder with a larger batch, a lower"
                    " learning rate or a larger `alignment.variance`"
                )
                self.require(done, name, value, meaning, LEAST_SPREAD)


N_PAIRS = 6


def draw_pairs(batch: PairBatch, output: Path) -> None:
    """Draw the first views of a few sets, each above its partner, or above a white square if it has
    none.
    """
    he = batch.views.global_views.pixels[: len(batch.views.global_views.pixels) // 2]
    partners = torch.full_like(he, 255)
    partners[batch.partner.image_known] = batch.partner.image
    pictures = torch.cat((he[:N_PAIRS], partners[:N_PAIRS])).permute(0, 2, 3, 1).numpy()
    with complete_file(output) as partial:
        write_png(partial, draw_page(pictures, len(pictures) // 2))
