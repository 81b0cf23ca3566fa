"""What lies between the nuclei: collagen, the cytoplasm of glands, and empty space."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.demo.field import FLOW_SLOPE
from muse_pipeline.demo.texture import Window, smoothstep
from muse_pipeline.demo.tissue import Tissue


@dataclass(frozen=True)
class Ground:
    """All maps and textures of a window of the field, each (h, w) float32; see ``Field`` and ``Tissue``."""

    depth: np.ndarray
    hollow: np.ndarray
    loose: np.ndarray
    crowd: np.ndarray
    unevenness: np.ndarray
    defocus: np.ndarray
    fibre: np.ndarray
    cleft: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray


def survey(tissue: Tissue, window: Window) -> Ground:
    """Look at everything in ``window`` (um in the field)."""
    depth, hollow, flow, loose = cv2.split(tissue.field.shape.view(window))
    crowd, _, unevenness, defocus = cv2.split(tissue.field.state.view(window))
    fine, coarse = cv2.split(tissue.grain.view(window))
    x, y = window.centres()
    flow += np.float32(FLOW_SLOPE) * y + 0.5 * coarse + 0.2 * fine
    fibre, thin, cleft = cv2.split(tissue.fibres.at(x + 0.25 * y + 2 * coarse, flow))
    hollow += 0.5 * coarse * (depth > 0)  # the free ends of gland cells are frayed
    return Ground(depth, hollow, loose, crowd, unevenness, defocus, 0.6 * fibre + 0.4 * thin, cleft, fine, coarse)


def stain_ground(ground: Ground) -> np.ndarray:
    """Amounts of haematoxylin and eosin without any nucleus: (h, w, 2) float32."""
    gland = smoothstep(ground.depth, -0.8, 0.8)
    haematoxylin, eosin = _mix(_stain_stroma(ground), _stain_gland(ground), gland)
    empty = smoothstep(ground.hollow, -0.7, 0.7)
    secretion = smoothstep(ground.unevenness, 0.2, 1.1) * gland * (0.16 + 0.05 * ground.coarse)
    eosin += 0.16 * cv2.exp(-((ground.hollow + 1.1) ** 2))  # the lining of every empty space
    haematoxylin, eosin = _mix((haematoxylin, eosin), (0.0, secretion), empty)
    thickness = 1 + 0.05 * ground.unevenness
    return cv2.merge([haematoxylin * thickness, eosin * thickness])


def _stain_stroma(ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """Collagen, pink and dense or pale and loose; pale among lymphocytes; clefts between its bundles."""
    loose, fibre = ground.loose, ground.fibre
    eosin = 0.68 + 0.20 * fibre + 0.07 * ground.fine - loose * (0.34 - 0.04 * fibre)
    haematoxylin = 0.05 + 0.10 * loose + 0.05 * fibre * loose + 0.03 * ground.fine
    eosin += 0.8 * ground.crowd * (0.20 + 0.09 * ground.coarse + 0.06 * ground.fine - eosin)
    haematoxylin += 0.08 * ground.crowd
    eosin += 0.14 * cv2.exp(-((ground.depth + 0.6) ** 2) / 0.7)  # basement membrane
    there = 1 - 0.92 * _gaps(ground)
    return np.maximum(haematoxylin, 0.02) * there, np.maximum(eosin, 0.04) * there


def _gaps(ground: Ground) -> np.ndarray:
    """Where collagen has parted: clefts along its fibres, and a rim where some glands have shrunk away."""
    cleft = smoothstep(ground.cleft + 0.25 * ground.loose - 0.8 * ground.crowd, 1.45, 1.8)
    rim = smoothstep(ground.depth, -5.5, -3.5) * smoothstep(ground.depth, -0.4, -1.6)
    return np.maximum(cleft, rim * smoothstep(ground.unevenness + 0.4 * ground.fibre, 0.3, 0.9))


def _stain_gland(ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """Grainy cytoplasm, paler towards the lumen."""
    apex = smoothstep(ground.hollow, -11, -1)
    haematoxylin = 0.30 + 0.07 * ground.coarse + 0.05 * ground.fine - 0.06 * apex
    eosin = 0.44 + 0.08 * ground.coarse + 0.06 * ground.fine - 0.12 * apex
    return haematoxylin, eosin


def _mix(below: tuple, above: tuple, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``below`` where ``part`` is 0, ``above`` where it is 1."""
    return tuple(low + part * (high - low) for low, high in zip(below, above, strict=True))
