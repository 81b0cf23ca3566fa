"""Maps of drawn nuclei as networks of other authors return them, and the nuclei that the authors'
programs find there.

    PYTHON experiments/peer_decoders/authors.py FAMILY drawn.npz decoded.npz

PYTHON has the authors' packages (README.md). `drawn.npz` has `labels` (N, h, w), 0 for background,
and `types` (N, h, w), from 1; `decoded.npz` has the maps in 8 bits with their range, and `labels`
and `types` by the authors.
"""

from __future__ import annotations

import sys
from typing import ClassVar

import cv2
import numpy as np

BLUR_PX, NOISE = 1.0, 0.06  # as a network's maps are blurred and noisy
SEED = 79
GRID_PX = 2  # of StarDist's maps
N_RAYS = 32
N_DECOYS, DECOY_PX = 3, 12  # areas per field where Cellpose's flows lead nowhere, and their radius
BOUNDARY_PX = 3  # width of the boundary inside nuclei


def smooth(values: np.ndarray, rng: np.random.Generator, noise: float = NOISE) -> np.ndarray:
    """Blur maps (C, h, w), and add noise that neighbouring pixels share."""
    grain = rng.normal(0, noise * 2 * np.sqrt(np.pi) * BLUR_PX, values.shape)
    return np.stack(
        [
            cv2.GaussianBlur(one + dust, (0, 0), BLUR_PX)
            for one, dust in zip(values, grain, strict=True)
        ]
    )


def draw_probabilities(numbers: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, h, w) probabilities, most of all of the ``numbers`` (h, w) from 0."""
    prob = smooth((numbers == np.arange(n)[:, None, None]).astype(float), rng).clip(1e-3)
    return prob / prob.sum(0)


def draw_positions(labels: np.ndarray) -> np.ndarray:
    """(2, h, w) horizontal and vertical position in a nucleus, -1 to 1 from edge to edge (Graham et
    al., 2019).
    """
    maps = np.zeros((2, *labels.shape))
    for number in np.unique(labels)[1:]:
        pixels = np.nonzero(labels == number)
        for of_axis, along in zip(maps, (pixels[1], pixels[0]), strict=True):
            away = along - np.round(along.mean())
            of_axis[pixels] = np.where(
                away < 0, away / max(-away.min(), 1), away / max(away.max(), 1)
            )
    return maps


def types_by_mean(labels: np.ndarray, prob: np.ndarray) -> dict[int, int]:
    """The most probable type of every nucleus, other than background."""
    return {
        number: 1 + int(prob[1:, labels == number].mean(1).argmax())
        for number in range(1, labels.max() + 1)
    }


class Family:
    """Networks of one kind; ``ranges`` are those of the maps that are kept in 8 bits."""

    ranges: ClassVar[dict[str, tuple[float, float]]]
    classifier: ClassVar = ()

    def render(
        self, labels: np.ndarray, types: np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Maps (C, h, w) of the nuclei in a label image (h, w), with their types (h, w)."""
        raise NotImplementedError

    def decode(self, maps: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[int, int]]:
        """The label image (h, w) of the nuclei in maps (C, h, w), and the type of each number."""
        raise NotImplementedError


class HoverNet(Family):
    """HoVer-Net, by the package `hover-net`."""

    ranges: ClassVar = {"np": (0, 1), "hv": (-1.25, 1.25), "tp": (0, 1)}

    def render(self, labels, types, rng):
        """See ``Family``."""
        nucleus = smooth((labels > 0)[None].astype(float), rng)
        return {
            "np": nucleus,
            "hv": smooth(draw_positions(labels), rng),
            "tp": draw_probabilities(types, 4, rng),
        }

    def decode(self, maps):
        """See ``Family``."""
        from hover_net.models.hovernet.post_proc import process

        stacked = np.stack([maps["tp"].argmax(0), maps["np"][0], *maps["hv"]], -1).astype(
            np.float32
        )
        labels, facts = process(stacked, nr_types=len(maps["tp"]), return_centroids=True)
        return labels, {number: fact["type"] for number, fact in facts.items()}


class CellVit(HoverNet):
    """CellViT, by the package `cellvit`."""

    def decode(self, maps):
        """See ``Family``."""
        from cellvit.models.cell_segmentation.postprocessing import DetectionCellPostProcessor

        stacked = np.stack([maps["tp"].argmax(0), maps["np"][0] > 0.5, *maps["hv"]], -1).astype(
            np.float32
        )
        labels, facts = DetectionCellPostProcessor(
            nr_types=len(maps["tp"])
        ).post_process_single_image(stacked)
        return labels, {number: fact["type"] for number, fact in facts.items()}


class HoverNext(Family):
    """HoVer-NeXt, which has no package: a watershed from the insides of nuclei."""

    ranges: ClassVar = {"joint": (-1, 1)}

    def render(self, labels, types, rng):
        """See ``Family``."""
        inside = np.zeros(labels.shape, bool)
        for number in np.unique(labels)[1:]:
            own = np.pad((labels == number).astype(np.uint8), 1)
            inside |= cv2.erode(own, np.ones((BOUNDARY_PX, BOUNDARY_PX), np.uint8))[1:-1, 1:-1] > 0
        parts = draw_probabilities(np.where(labels == 0, 0, np.where(inside, 1, 2)), 3, rng)
        return {
            "joint": np.concatenate(
                [draw_positions(labels), parts, draw_probabilities(types, 4, rng)]
            )
        }

    def decode(self, maps):
        """See ``Family``."""
        from scipy import ndimage
        from skimage.segmentation import watershed

        background, inside, _ = maps["joint"][2:5]
        seeds, _ = ndimage.label(inside > 0.5)
        labels = watershed(-inside, seeds, mask=1 - background > 0.5)
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        return labels, types_by_mean(labels, maps["joint"][5:])


class StarDist(Family):
    """StarDist, by the package `stardist`, which also draws the rays."""

    ranges: ClassVar = {"prob": (0, 1), "dist": (0, 40), "prob_class": (0, 1)}

    def render(self, labels, types, rng):
        """See ``Family``."""
        from stardist import edt_prob, star_dist

        rays = star_dist(labels.astype(np.uint16), N_RAYS).transpose(2, 0, 1)
        maps = {
            "prob": smooth(edt_prob(labels)[None], rng, 0.02),
            "dist": smooth(rays, rng, 0.2).clip(0),
            "prob_class": draw_probabilities(types, 4, rng),
        }
        return {name: values[:, ::GRID_PX, ::GRID_PX] for name, values in maps.items()}

    def decode(self, maps):
        """See ``Family``."""
        from stardist import non_maximum_suppression, polygons_to_label

        rays, prob = np.ascontiguousarray(maps["dist"].transpose(1, 2, 0)), maps["prob"][0]
        grid = GRID_PX, GRID_PX
        points, scores, rays = non_maximum_suppression(
            rays, prob, grid=grid, nms_thresh=0.4, prob_thresh=0.5
        )
        side = prob.shape[0] * GRID_PX
        labels = polygons_to_label(rays, points, (side, side), prob=scores)
        row, column = (points // GRID_PX).T
        types = 1 + maps["prob_class"][1:, row, column].argmax(0)
        return labels, dict(enumerate(types.tolist(), 1))


class Cellpose(Family):
    """Cellpose, by the package `cellpose`, which also draws the flows."""

    ranges: ClassVar = {"flows": (-7, 7)}

    def __init__(self):
        from cellpose import dynamics

        self.package = dynamics

    def render(self, labels, types, rng):
        """See ``Family``."""
        _, _, *flows = self.package.labels_to_flows([labels.astype(np.int32)])[0]
        flows, nucleus = np.stack(flows), labels > 0
        y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
        for centre in rng.uniform(0, labels.shape[0], (N_DECOYS, 2)):
            decoy = (np.hypot(y - centre[0], x - centre[1]) < DECOY_PX) & (labels == 0)
            flows[:, decoy], nucleus = rng.normal(0, 2, (2, decoy.sum())), nucleus | decoy
        logit = smooth(nucleus[None] * 12.0 - 6, rng, 0.5)
        return {"flows": np.concatenate([5 * smooth(flows, rng, 0.1), logit])}

    def decode(self, maps):
        """See ``Family``."""
        *flows, nucleus = maps["flows"]
        labels = self.package.compute_masks(np.stack(flows), nucleus, min_size=15)
        return labels, dict.fromkeys(range(1, labels.max() + 1), 1)


class InstanSeg(Family):
    """InstanSeg, by the package `instanseg-torch`, with a pixel classifier that reads distances."""

    ranges: ClassVar = {"maps": (-7.5, 15)}
    classifier: ClassVar = (
        ((1, 0, 0, 0), (-1, 0, 0, 0), (0, 1, 0, 0), (0, -1, 0, 0), (0, 0, 1, 1)),
        (0, 0, 0, 0, 0),
        np.eye(5).tolist(),
        (0, 0, 0, 0, 0.1),
        (-12, -12, -12, -12, 0.5),
        (6,),
    )

    def render(self, labels, types, rng):
        """See ``Family``."""
        offsets = np.zeros((2, *labels.shape))
        for number in np.unique(labels)[1:]:
            pixels = np.nonzero(labels == number)
            for offset, along in zip(offsets, pixels[::-1], strict=True):
                offset[pixels] = (along.mean() - along) / 4
        share = (smooth(offsets, rng, 0.05) / 8 + 0.5).clip(0.01, 0.99)
        depth = np.zeros(labels.shape)
        for number in np.unique(labels)[1:]:
            own = np.pad((labels == number).astype(np.uint8), 1)
            depth += cv2.distanceTransform(own, cv2.DIST_L2, 5)[1:-1, 1:-1]
        seeds = smooth(np.where(labels > 0, depth, -5)[None], rng, 0.2)
        return {
            "maps": np.concatenate(
                [np.log(share / (1 - share)), rng.normal(0, 0.3, offsets.shape), seeds]
            )
        }

    def decode(self, maps):
        """See ``Family``."""
        import torch
        from instanseg.utils.loss.instanseg_loss import InstanSeg, ProbabilityNet

        classifier = ProbabilityNet(4, 5)
        for parameter, values in zip(classifier.parameters(), self.classifier, strict=True):
            parameter.data = torch.tensor(values, dtype=torch.float32).reshape(parameter.shape)
        # The values with which TorchScript files are written.
        settings = {
            "mask_threshold": 0.53,
            "peak_distance": 5,
            "seed_threshold": 0.7,
            "overlap_threshold": 0.3,
        }
        settings |= {
            "mean_threshold": 0.0,
            "window_size": 32,
            "min_size": 10,
            "cleanup_fragments": True,
        }
        program, prediction = InstanSeg(n_sigma=2, device="cpu"), torch.tensor(maps["maps"])
        program.pixel_classifier = classifier
        with torch.no_grad():
            labels = program.postprocessing(prediction, **settings)[0].numpy()
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        return labels, dict.fromkeys(range(1, labels.max() + 1), 1)


FAMILIES = {
    "hover": HoverNet,
    "cellvit": CellVit,
    "hovernext": HoverNext,
    "stardist": StarDist,
    "instanseg": InstanSeg,
    "cellpose": Cellpose,
}


def quantise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps in 8 bits."""
    return np.rint((values - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def restore(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The float32 maps of ``quantise``."""
    return values.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)


def main() -> None:
    """Draw and decode the maps of all fields."""
    name, source, target = sys.argv[1:]
    family, drawn, rng = FAMILIES[name](), np.load(source), np.random.default_rng(SEED)
    maps, labels, types = {name: [] for name in family.ranges}, [], []
    for own, of_types in zip(drawn["labels"], drawn["types"], strict=True):
        for name, values in family.render(own, of_types, rng).items():
            maps[name].append(quantise(values, *family.ranges[name]))
        numbers, kinds = family.decode(
            {name: restore(maps[name][-1], *family.ranges[name]) for name in maps}
        )
        labels.append(numbers.astype(np.uint16))
        types.append(
            np.array([kinds.get(number, 0) for number in range(numbers.max() + 1)], np.uint8)
        )
    n_types = max(map(len, types))
    np.savez_compressed(
        target,
        labels=np.stack(labels),
        types=np.stack(
            [np.pad(each, (0, n_types - len(each))) for each in types]
        ),  # of each number
        **{name: np.stack(values) for name, values in maps.items()},
        **{f"classifier {n}": np.ravel(values) for n, values in enumerate(family.classifier)},
        **{f"range of {name}": np.array(limits) for name, limits in family.ranges.items()},
    )


if __name__ == "__main__":
    main()
