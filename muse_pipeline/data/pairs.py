"""Views of H&E tissue paired with views of the same tissue in a partner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.data.nucleus_images import NucleusImage
from muse_pipeline.data.partners import PicturePartner
from muse_pipeline.data.views import ViewBatch, ViewBatches, ViewSet

CORNERS = np.array([(0.5, 0.5), (0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9)])  # shares of a view's side


class PartnerBatch(NamedTuple):
    """The partners of B sets of views, in the geometry of each set's first global view.

    Attributes:
        image: pixels (K, 3, R, R) uint8 of the K sets that have one.
        image_known: (B,) bool, True for the K sets with a partner.
        nuclei_known: (B, M) bool, the nuclei that the global views share and the partner covers.
    """

    image: Tensor
    image_known: Tensor
    nuclei_known: Tensor


class PairBatch(NamedTuple):
    """A batch of B sets of views and the partners of the views.

    Attributes:
        views: H&E views; ``teacher_xy[0]``, ``student_xy[0]`` and ``shared[0]`` are the nuclei of the two global views.
        partner: partners of the views.
    """

    views: ViewBatch
    partner: PartnerBatch


class PairBatches:
    """Adds partners to batches of views; a number always gives the same batch.

    A partner is cut, scaled, mirrored and turned as the first global view is; its colours are not varied.

    Args:
        views: batches of views of the H&E images.
        images: images that ``views`` draws from.
        partners: partner of each image, None where there is none.
    """

    def __init__(
        self,
        views: ViewBatches,
        images: Sequence[NucleusImage],
        partners: Sequence[PicturePartner | None],
    ):
        self.views = views
        self._partner = {id(image): partner for image, partner in zip(images, partners, strict=True)}

    def __call__(self, number: int) -> PairBatch:
        """The batch of ``number``."""
        views, sets = self.views.draw(number)
        return PairBatch(views, self._read_partners(sets, views.teacher_xy[0].numpy(), views.shared[0].numpy()))

    def _read_partners(self, sets: Sequence[ViewSet], xy: np.ndarray, shared: np.ndarray) -> PartnerBatch:
        cut, known, at_nuclei = [], np.zeros(len(sets), bool), np.zeros_like(shared)
        for number, one in enumerate(sets):
            partner, view = self._partner[id(one.image)], one.views[0]
            if partner is None:
                continue
            known[number] = partner.covers(view.source_xy(CORNERS * view.size_px)).all()
            if known[number]:
                cut.append(view.cut(partner))
                at_nuclei[number] = shared[number] & partner.covers(view.source_xy(xy[number]))
        side = sets[0].views[0].size_px
        pixels = torch.from_numpy(np.stack(cut) if cut else np.zeros((0, side, side, 3), np.uint8))
        return PartnerBatch(pixels.permute(0, 3, 1, 2), torch.from_numpy(known), torch.from_numpy(at_nuclei))
