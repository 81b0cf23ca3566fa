"""Statistics of the published examples of synthesised masks, and the fractions of other masks within them."""

from __future__ import annotations

from collections.abc import Sequence

from muse_pipeline.methods.unit.synthesis.masks import InstanceMask
from muse_pipeline.methods.unit.synthesis.statistics import MEASURES, measure

# The six 256-px example masks of UNITPathSSL's framework figure at 0.25 um/px, measured without contour pixels and
# nuclei at the border: quantiles by measure, None where not measured; totals are least and most of the six.
REFERENCE = {
    "Epithelial": {
        "area_um2": (9.5, 16.8, 33.4, 45.8, 83.8),
        "major_um": (None, 8.0, 9.0, 10.5, None),
        "minor_um": (None, 3.5, 4.5, 5.75, None),
        "ratio": (0.13, 0.42, 0.51, 0.70, 0.96),
    },
    "Stroma": {
        "area_um2": (8.4, 10.4, 19.4, 32.3, 64.3),
        "major_um": (None, 5.25, 7.25, 9.25, None),
        "minor_um": (None, 2.5, 3.75, 5.75, None),
        "ratio": (0.18, 0.39, 0.64, 0.76, 0.89),
    },
}
REFERENCE_TOTALS = {"nuclei": (14, 22), "epithelial": (0.0, 0.86), "covered": (0.055, 0.175)}
REFERENCE_PX, REFERENCE_MPP = 256, 0.25


def within_reference(masks: Sequence[InstanceMask], mpp: float) -> dict[str, float]:
    """Fractions of whole nuclei within the reference's 5 to 95 %, by kind and measure, and of masks in its ranges.

    Masks drawn from the reference's own distribution have 0.9 of their nuclei there.
    """
    tables, totals = measure(masks, mpp)
    ranges = {
        f"{kind}, {name}": (tables[kind][:, MEASURES.index(name)], quantiles[0], quantiles[-1])
        for kind, measures in REFERENCE.items()
        for name, quantiles in measures.items()
        if quantiles[0] is not None
    }
    ranges |= {f"masks, {name}": (totals[:, i], *ends) for i, (name, ends) in enumerate(REFERENCE_TOTALS.items())}
    return {name: float(((values >= low) & (values <= high)).mean()) for name, (values, low, high) in ranges.items()}
