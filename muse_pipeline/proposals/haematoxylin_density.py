"""How much haematoxylin there is at every pixel: colour deconvolution with the slide's own stains, held near textbook.

Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution", Anal Quant Cytol Histol 2001.
"""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.tissue.stains import TEXTBOOK, optical_density

OWN_SHARE = 0.4  # of the slide's own vectors: they follow the stain, but lean towards whatever tissue fills the slide


def blend_stains(own: np.ndarray | None) -> np.ndarray:
    """Unit stain vectors (2, 3) in optical density, haematoxylin first: 40 % the slide's own, 60 % textbook.

    Args:
        own: (2, 3) as Macenko's fit gives them (``colour.json``), or None where the slide has no plausible fit.
    """
    blend = TEXTBOOK if own is None else OWN_SHARE * _unit(np.asarray(own, float)) + (1 - OWN_SHARE) * _unit(TEXTBOOK)
    return _unit(blend)


def haematoxylin(pixels: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Optical density of haematoxylin (h, w) float32, at least 0, of (h, w, 3) uint8 ``pixels``.

    The least-squares share of the first of two ``stains`` (2, 3); what lies off their plane counts for neither.
    """
    weights = np.linalg.pinv(np.asarray(stains, float))[:, 0]
    table = (optical_density(np.arange(256, dtype=np.uint8))[:, None] * weights).astype(np.float32)
    shares = cv2.LUT(np.ascontiguousarray(pixels), table[None])  # (h, w, 3): what each channel adds
    return np.maximum(cv2.transform(shares, np.ones((1, 3), np.float32)), 0)


def _unit(stains: np.ndarray) -> np.ndarray:
    return stains / np.linalg.norm(stains, axis=1, keepdims=True)
