"""The objective of UNITPathSSL (its equation 7), which generator and reader minimise together."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def translation_objective(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """``L = L_GAN(G) + l1 L_GAN(S) + l2 L_cyc(G, S) + l3 L_seg(S o G)``, and ours: ``+ l4 L_painted(G)``.

    ``L_seg`` is the instance loss of the reader on rendered pictures with the masks' own instances. Those pictures are
    not detached, so it has gradients in both networks: G must render nuclei that can be told apart.

    Args:
        terms: loss terms under the names of ``weights``; one with a weight of 0 may be missing.
        weights: "picture_gan", "mask_gan", "cycle", "instances", "painted".

    Returns:
        ``"loss"`` and the terms.
    """
    return {"loss": sum(weights[name] * term for name, term in terms.items()), **terms}
