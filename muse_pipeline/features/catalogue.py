"""The features of nuclei, with name, unit and description, and the sets of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GROUPS_OF_SET = {
    "none": (),
    "basic": ("shape", "h", "e"),
    "all": ("shape", "h", "e", "texture", "neighbours"),
}
RADII_UM = (25, 50, 100)
MIX_UM = 50  # radius of the class mix
EDGE_UM = 1000  # upper limit of distances to the edge of the tissue


@dataclass(frozen=True)
class Feature:
    """A measurement of every nucleus, with the name of its column, ``<group>_<name>``, and a
    description.

    The unit is "um", "um2", "OD" (base 10), "OD/um", "rad", "bit", "count" or "1" for ratios.
    """

    name: str
    unit: str
    text: str

    @property
    def group(self) -> str:
        """The part of the name before the first underscore, if that is a group; otherwise
        "shape".
        """
        group = self.name.partition("_")[0]
        if group in {*GROUPS_OF_SET["all"], "cell", "cytoplasm", "membrane"}:
            return group
        return "shape"


# columns of every table, in the group *shape*; measured on the polygon of the outline
FIRST_COLUMNS = (
    Feature("area_um2", "um2", "area"),
    Feature("perimeter_um", "um", "perimeter"),
    Feature("solidity", "1", "area over the area of the convex hull"),
    Feature("eccentricity", "1", "eccentricity of the ellipse of equal second moments"),
    Feature("major_axis_um", "um", "major axis of the ellipse of equal second moments"),
    Feature("minor_axis_um", "um", "minor axis of the ellipse of equal second moments"),
)
SHAPE = (
    Feature("shape_equivalent_diameter_um", "um", "diameter of the circle of the same area"),
    Feature("shape_feret_um", "um", "largest distance between two points of the outline"),
    Feature(
        "shape_orientation",
        "rad",
        "angle from the downward axis to the major axis, as in scikit-image",
    ),
    Feature("shape_circularity", "1", "4 pi area / perimeter^2"),
    Feature("shape_extent", "1", "area over the area of the axis-aligned box around the outline"),
)


DENSITIES = {  # of each stain
    "mean": "mean over the nucleus",
    "sd": "standard deviation over the nucleus",
    "p10": "10th percentile over the nucleus",
    "p50": "median over the nucleus",
    "p90": "90th percentile over the nucleus",
    "rim_mean": "mean over the outer 1 um of the nucleus",
    "ring_mean": "mean over the 2 um around the nucleus, without other nuclei",
}
TEXTURE = (
    Feature("texture_gradient_mean", "OD/um", "mean magnitude of the gradient of haematoxylin"),
    Feature(
        "texture_gradient_sd",
        "OD/um",
        "standard deviation of the magnitude of the gradient of haematoxylin",
    ),
    Feature("texture_entropy", "bit", "entropy of the histogram of haematoxylin in steps of 0.05"),
    Feature("texture_contrast", "1", "Haralick's contrast of haematoxylin in steps of 0.05"),
    Feature("texture_correlation", "1", "Haralick's correlation"),
    Feature("texture_homogeneity", "1", "Haralick's inverse difference moment"),
    Feature("texture_asm", "1", "Haralick's angular second moment"),
    Feature("texture_clumped_fraction", "1", "share of the haematoxylin in pixels above mean + sd"),
)
CELL = (  # columns of tables with cells
    Feature("cell_area_um2", "um2", "area of the cell, with its nucleus"),
    Feature("nucleus_cell_ratio", "1", "area of the nucleus over that of the cell"),
    Feature("cytoplasm_h_mean", "OD", "haematoxylin: mean over the cell without its nucleus"),
    Feature("cytoplasm_e_mean", "OD", "eosin: mean over the cell without its nucleus"),
)
DAB_OF_CELL = (  # columns of tables with cells, for immunohistochemistry
    Feature("cytoplasm_dab_mean", "OD", "DAB: mean over the cell without its nucleus"),
    Feature(
        "membrane_dab_mean", "OD", "DAB: mean over the 1 um wide ring of the cell that has most"
    ),
)


def _neighbours(classes: Sequence[str]) -> tuple[Feature, ...]:
    counts = (
        Feature(f"neighbours_within_{radius}um", "count", f"other nuclei within {radius} um")
        for radius in RADII_UM
    )
    mix = (
        Feature(
            f"neighbours_fraction_{name}",
            "1",
            f"share of {name} among the nuclei within {MIX_UM} um",
        )
        for name in classes
    )
    same = Feature(
        "neighbours_same_class_fraction",
        "1",
        f"share of its own class among the nuclei within {MIX_UM} um",
    )
    return (
        Feature(
            "neighbours_nearest_um",
            "um",
            f"distance to the nearest other nucleus within {RADII_UM[-1]} um",
        ),
        *counts,
        *([*mix, same] if len(classes) > 1 else []),
        Feature(
            "neighbours_tissue_edge_um",
            "um",
            f"distance to the edge of the tissue, at most {EDGE_UM:,}",
        ),
    )


def features_of(chosen: str, classes: Sequence[str]) -> tuple[Feature, ...]:
    """The features of a set, "none", "basic" or "all", for these classes of nuclei, in the order of
    their columns.
    """
    by_group = {"shape": SHAPE, "texture": TEXTURE, "neighbours": _neighbours(classes)}
    for stain, noun in (("h", "haematoxylin"), ("e", "eosin")):
        by_group[stain] = [
            Feature(f"{stain}_{name}", "OD", f"{noun}: {text}") for name, text in DENSITIES.items()
        ]
    return tuple(feature for group in GROUPS_OF_SET[chosen] for feature in by_group[group])


def every_feature(classes: Sequence[str]) -> tuple[Feature, ...]:
    """Every feature that a table can have; the features of every table come first."""
    return (*FIRST_COLUMNS, *features_of("all", classes), *CELL, *DAB_OF_CELL)


WITHOUT_CLASSES = frozenset(feature.name for feature in every_feature(()))  # independent of classes
