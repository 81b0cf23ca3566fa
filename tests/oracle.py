"""What a run reports, computed again from its raw outputs by the definitions in docs/guide/,
plainly and slowly.

Shapes and positions are in um: everything is scaled by the um per pixel of its axis first. A value
that the product rounds is not rounded here.
"""

from __future__ import annotations

import gzip
import json
import string
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely
import zarr

SIZES = ["area_um2", "perimeter_um", "solidity", "eccentricity", "major_axis_um", "minor_axis_um"]
HAEMATOXYLIN, EOSIN, DAB = (
    (0.65, 0.70, 0.29),
    (0.07, 0.99, 0.11),
    (0.27, 0.57, 0.78),
)  # Ruifrok and Johnston's


def read_json(path: Path) -> dict:
    return json.loads((gzip.open if path.suffix == ".gz" else open)(path, "rb").read())


class Slide:
    """The raw outputs of one slide."""

    def __init__(self, folder: Path):
        self.folder, info = folder, read_json(folder / "slide.json")
        self.mpp, bounds = np.array(info["mpp"]), info["bounds"]
        self.offset_px = np.array([bounds["x"], bounds["y"]] if bounds else [0, 0])
        size_px = [bounds["width"], bounds["height"]] if bounds else info["size_px"]
        self.scanned = shapely.box(
            *(self.offset_px * self.mpp), *((self.offset_px + size_px) * self.mpp)
        )
        self.size_um = np.array(info["size_px"]) * self.mpp
        self.provenance = read_json(folder / "nuclei.provenance.json")["provenance"]
        self.classes = [item["name"] for item in self.provenance["card"]["classes"]]
        self.table = pq.read_table(folder / "nuclei.parquet").to_pandas()
        self.xy = self.table[["x", "y"]].to_numpy() * self.mpp
        self.outlines = self.to_um(shapely.from_wkb(self.table["geometry"]))
        self.rings = np.array(
            [ring(xy, rays) for xy, rays in zip(self.xy, self.table["rays"], strict=True)]
        )
        if "cell_rays" in self.table:
            self.cells = np.array(
                [ring(xy, rays) for xy, rays in zip(self.xy, self.table["cell_rays"], strict=True)]
            )
        with np.load(folder / "tissue.npz") as tissue:
            rows, columns = tissue["mask"].nonzero()
            width, height = self.mask_mpp = tissue["mask_mpp"]
            roi = shapely.from_wkb(tissue["roi"].tobytes()) if tissue["roi"].size else None
        self.mask = shapely.box(
            columns * width, rows * height, (columns + 1) * width, (rows + 1) * height
        )
        self.roi = self.to_um(roi) if roi else shapely.box(0, 0, *self.size_um)

    def to_um(self, shapes_px):
        return shapely.transform(shapes_px, lambda xy: xy * self.mpp)

    def areas(self, path: Path) -> list[tuple[dict, shapely.Geometry]]:
        """(properties, shape) of the features of a GeoJSON that counts from the scanner's
        bounds.
        """
        areas = []
        for feature in read_json(path)["features"]:
            shape = shapely.from_geojson(json.dumps(feature["geometry"]))
            areas.append(
                (
                    feature["properties"],
                    self.to_um(shapely.transform(shape, lambda xy: xy + self.offset_px)),
                )
            )
        return areas

    def artefacts(self) -> dict[str, shapely.Geometry]:
        """Area of each kind of artefact."""
        path, shapes = self.folder / "artefacts.geojson", {}
        for properties, shape in self.areas(path) if path.exists() else []:
            name = properties["classification"]["name"].lower()
            shapes[name] = shapes.get(name, shapely.Polygon()) | shape
        return shapes

    def left_out(self, subtract) -> np.ndarray:
        """(N,) True for nuclei that totals leave out."""
        if "quality" not in self.table:
            return np.zeros(len(self.table), bool)
        return self.table["quality"].isin(subtract).to_numpy()

    def tissue_mm2(self, area=None, without=()) -> float:
        """Area of the tissue mask in the ROI and ``area``, but not in the areas ``without``."""
        area = self.roi if area is None else shapely.intersection(area, self.roi)
        for shape in without:
            area = shapely.difference(area, shape)
        return shapely.area(shapely.intersection(self.mask, area)).sum() / 1e6


def ring(xy_um: np.ndarray, rays_um: np.ndarray) -> shapely.Polygon:
    """Ray k of R has the angle 2 pi k / R from +x towards +y."""
    angle = 2 * np.pi * np.arange(len(rays_um)) / len(rays_um)
    return shapely.Polygon(
        xy_um + np.stack([np.cos(angle), np.sin(angle)], 1) * np.maximum(rays_um, 0)[:, None]
    )


def shape_of(outline: shapely.Polygon) -> dict[str, float]:
    """The sizes and shapes of docs/guide/features.md; moments are summed over the triangles of the
    polygon.
    """
    area, length, hull = outline.area, outline.length, outline.convex_hull
    corners = shapely.get_coordinates(outline) - np.array(outline.centroid.coords[0])
    first, second = corners[:-1], corners[1:]
    cross = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    total = [
        (cross * (first[:, i] * first[:, j] + second[:, i] * second[:, j]) / 12).sum()
        + (cross * (first + second)[:, i] * (first + second)[:, j] / 12).sum()
        for i, j in ((0, 0), (0, 1), (1, 1))
    ]
    xx, xy, yy = np.abs(total[0]), total[1] * np.sign(cross.sum()), np.abs(total[2])
    moments, axes = np.linalg.eigh(np.array([[xx, xy], [xy, yy]]) / area / 2)
    minor, major = 4 * np.sqrt(moments)
    along = axes[:, 1] * (np.sign(axes[1, 1]) or 1)
    low_x, low_y, high_x, high_y = outline.bounds
    vertices = shapely.get_coordinates(hull)
    return {
        "area_um2": area,
        "perimeter_um": length,
        "solidity": area / hull.area,
        "eccentricity": np.sqrt(1 - minor**2 / major**2),
        "major_axis_um": major,
        "minor_axis_um": minor,
        "shape_equivalent_diameter_um": np.sqrt(4 * area / np.pi),
        "shape_feret_um": np.linalg.norm(vertices[:, None] - vertices[None], axis=2).max(),
        "shape_orientation": np.arctan2(along[0], along[1]),
        "shape_circularity": 4 * np.pi * area / length**2,
        "shape_extent": area / ((high_x - low_x) * (high_y - low_y)),
    }


class Pixels:
    """The image in which nuclei were found, unmixed into optical densities (base 10) of stains."""

    def __init__(self, slide: Slide, vectors, mpp: float = 0.5):
        image = zarr.open(slide.folder / f"image-{mpp * 1000:.0f}nm.zarr", mode="r")["0"][:]
        od = -np.log10((np.moveaxis(image, 0, -1).astype(float) + 1) / 256)
        vectors = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.densities = od @ np.linalg.pinv(vectors)
        self.mpp = mpp

    def inside(self, shape: shapely.Geometry) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the pixels whose centres lie in a shape."""
        left, top, right, bottom = np.array(shape.bounds) / self.mpp
        height, width = self.densities.shape[:2]
        rows = np.arange(max(int(top), 0), min(int(bottom) + 1, height))
        columns = np.arange(max(int(left), 0), min(int(right) + 1, width))
        rows, columns = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
        chosen = shapely.contains_xy(shape, (columns + 0.5) * self.mpp, (rows + 0.5) * self.mpp)
        return rows[chosen], columns[chosen]

    def values(self, shape: shapely.Geometry, stain: int, step: int = 1) -> np.ndarray:
        """Densities in the pixels of a shape; with a step of 2, of those in every second row."""
        rows, columns = self.inside(shape)
        return self.densities[rows[rows % step == 0], columns[rows % step == 0], stain]

    def mean(self, shape: shapely.Geometry, stain: int, step: int = 1) -> float:
        values = self.values(shape, stain, step) if shape.area else np.empty(0)
        return values.mean() if len(values) else np.nan


def stains_of(pixels: Pixels, slide: Slide, index: int) -> dict[str, float]:
    """Haematoxylin and eosin in the nucleus, its rim and its ring."""
    outline, xy = slide.rings[index], slide.xy[index]
    rays = np.array(slide.table["rays"][index], float)
    near = shapely.STRtree(slide.rings).query(outline, "dwithin", distance=10)
    others = shapely.union_all(slide.rings[near[near != index]])
    rim, wider = outline - ring(xy, rays - 1), ring(xy, rays + 2) - outline - others
    columns = {}
    for stain, name in enumerate("he"):
        values = pixels.values(outline, stain)
        columns |= {f"{name}_mean": values.mean(), f"{name}_sd": values.std()}
        columns |= {f"{name}_p{share}": np.percentile(values, share) for share in (10, 50, 90)}
        columns |= {
            f"{name}_rim_mean": pixels.mean(rim, stain),
            f"{name}_ring_mean": pixels.mean(wider, stain),
        }
    return columns


def texture_of(pixels: Pixels, outline: shapely.Polygon) -> dict[str, float]:
    """Texture of the haematoxylin of a nucleus."""
    rows, columns = pixels.inside(outline)
    density = pixels.densities[..., 0]
    values = density[rows, columns]
    level = np.clip(values // 0.05, 0, 31).astype(int)
    levels = dict(zip(zip(rows, columns, strict=True), level, strict=True))
    counts = np.zeros((32, 32))
    for (row, column), first in levels.items():
        for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
            second = levels.get((row + step[0], column + step[1]))
            if second is not None:
                counts[first, second] += 1
                counts[second, first] += 1
    p, (i, j) = counts / counts.sum(), np.mgrid[:32, :32]
    mean = (p * i).sum()
    share = np.bincount(level, minlength=32) / len(level)
    down = (density[rows + 1, columns] - density[rows - 1, columns]) / (2 * pixels.mpp)
    across = (density[rows, columns + 1] - density[rows, columns - 1]) / (2 * pixels.mpp)
    gradient = np.hypot(down, across)
    return {
        "texture_gradient_mean": gradient.mean(),
        "texture_gradient_sd": gradient.std(),
        "texture_entropy": -(share[share > 0] * np.log2(share[share > 0])).sum(),
        "texture_contrast": (p * (i - j) ** 2).sum(),
        "texture_correlation": (p * (i - mean) * (j - mean)).sum() / (p * (i - mean) ** 2).sum(),
        "texture_homogeneity": (p / (1 + (i - j) ** 2)).sum(),
        "texture_asm": (p**2).sum(),
        "texture_clumped_fraction": (
            values[values > values.mean() + values.std()].sum() / values.sum()
        ),
    }


def neighbours(slide: Slide) -> pd.DataFrame:
    distance = np.linalg.norm(slide.xy[:, None] - slide.xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    label, near = slide.table["label"].to_numpy(), distance <= 50
    columns = {"neighbours_nearest_um": np.where(distance.min(1) <= 100, distance.min(1), np.nan)}
    columns |= {f"neighbours_within_{um}um": (distance <= um).sum(1) for um in (25, 50, 100)}
    with np.errstate(invalid="ignore"):
        for index, name in enumerate(slide.classes):
            columns[f"neighbours_fraction_{name}"] = (near & (label == index)).sum(1) / near.sum(1)
        columns["neighbours_same_class_fraction"] = (near & (label[:, None] == label)).sum(
            1
        ) / near.sum(1)
    return pd.DataFrame(columns)


def is_in_cell(slide: Slide, index: int, points: np.ndarray, expand_um: float) -> np.ndarray:
    """(P,) True for points of a nucleus' cell: near it, nearer than any other, and in tissue that
    was scanned.
    """
    outline, places = slide.outlines[index], shapely.points(points)
    around = shapely.STRtree(slide.outlines).query(outline, "dwithin", distance=2 * expand_um)
    others = shapely.union_all(slide.outlines[around[around != index]])
    own = shapely.distance(outline, places)
    tissue = shapely.union_all(slide.mask[shapely.dwithin(slide.mask, outline, expand_um + 20)])
    usable = shapely.intersects(shapely.intersection(tissue, slide.scanned), places) & (
        own <= expand_um
    )
    return (own == 0) | (
        usable & (own <= (shapely.distance(others, places) if others.area else np.inf))
    )


def counts(slide: Slide, chosen: np.ndarray, mm2: float) -> dict[str, float]:
    """Numbers of nuclei, by class, and per mm2 of tissue."""
    n, label = chosen.sum(), slide.table["label"].to_numpy()
    numbers = {"nuclei": n, "nuclei_per_mm2": n / mm2 if mm2 else np.nan}
    for index, name in enumerate(slide.classes):
        of_class = (chosen & (label == index)).sum()
        numbers |= {
            f"nuclei_{name}": of_class,
            f"nuclei_per_mm2_{name}": of_class / mm2 if mm2 else np.nan,
        }
        numbers[f"percent_{name}"] = 100 * of_class / n if n else np.nan
    return numbers


def scores(od: np.ndarray, begins, prefix: str = "") -> dict[str, float]:
    """Immunohistochemistry: nuclei (or cells) that are 1+, 2+ and 3+, and the scores."""
    od = od[np.isfinite(od)]
    grade = (od[:, None] >= np.array(begins)).sum(1)
    shares = [(grade == number).mean() * 100 for number in (1, 2, 3)]
    percent = (grade > 0).mean() * 100
    allred = 0
    if percent > 0:
        allred = sum(percent > limit for limit in (0, 1, 10, 33, 67)) + int(
            np.floor(grade[grade > 0].mean() + 0.5)
        )
    numbers = {
        "percent_positive": percent,
        "h_score": shares[0] + 2 * shares[1] + 3 * shares[2],
        "allred": allred,
    }
    numbers |= {f"n_{number}plus": (grade == number).sum() for number in (1, 2, 3)}
    if not prefix:
        numbers |= {"n_positive": (grade > 0).sum(), "n_negative": (grade == 0).sum()}
    return {prefix + name: value for name, value in numbers.items()}


def annotations(slide: Slide, path: Path) -> list[tuple[str, str, shapely.Geometry]]:
    """(name, class, shape) of the areas of a ROI file, without what is ignored."""
    areas = [({"classification": {"name": ""}} | item, shape) for item, shape in slide.areas(path)]
    areas = [(item.get("name"), item["classification"]["name"], shape) for item, shape in areas]
    ignored = shapely.union_all([shape for _, word, shape in areas if word.startswith("Ignore")])
    return [
        (name or word, word, shape - ignored)
        for name, word, shape in areas
        if not word.startswith("Ignore")
    ]


class Regions:
    """Areas of tissue that were drawn with classes."""

    def __init__(self, slide: Slide, path: Path):
        self.slide, drawn = (
            slide,
            [(item["classification"]["name"], shape) for item, shape in slide.areas(path)],
        )
        self.shapes, covered = {}, shapely.Polygon()
        for name, shape in sorted(
            drawn, key=lambda area: area[1].area
        ):  # where areas overlap, the smallest counts
            self.shapes[name] = self.shapes.get(name, shapely.Polygon()) | (shape - covered)
            covered |= shape
        self.kept = shapely.union_all(slide.mask).buffer(16) & slide.roi  # where nuclei are kept
        inner = self.kept.buffer(-1)  # the edge of the tissue is not a border
        edges = {name: shape.boundary & inner for name, shape in self.shapes.items()}
        self.borders = {"": (covered, shapely.union_all(list(edges.values())))}
        self.borders |= {name: (shape, edges[name]) for name, shape in self.shapes.items()}

    def region(self) -> np.ndarray:
        """(N,) name of the region of each nucleus; empty outside."""
        names = np.full(len(self.slide.xy), "", object)
        for name, shape in self.shapes.items():
            names[shapely.contains_xy(shape, self.slide.xy)] = name
        return names

    def distance(self, name: str = "") -> np.ndarray:
        """(N,) distance to the border of one class, or of all: negative inside."""
        shape, border = self.borders[name]
        distance = shapely.distance(shapely.points(self.slide.xy), border)
        return np.where(shapely.contains_xy(shape, self.slide.xy), -distance, distance)

    def mm2(self) -> dict[str, float]:
        """Area of each region where nuclei are kept, and of the bands along its border."""
        areas = {
            f"mm2_in_{name}": (shape & self.kept).area / 1e6 for name, shape in self.shapes.items()
        }
        for name, (shape, border) in self.borders.items():
            of = f"border_of_{name}" if name else "border"
            for um in (50, 100):
                band = border.buffer(um, quad_segs=32) & self.kept
                areas[f"mm2_in_{of}_inside_{um}um"] = (band & shape).area / 1e6
                areas[f"mm2_in_{of}_outside_{um}um"] = (band - shape).area / 1e6
        return areas


def core_name(row: int, column: int) -> str:
    """Names of rows are letters: A to Z, AA, AB, ..."""
    letters = string.ascii_uppercase
    return (letters[row // 26 - 1] if row >= 26 else "") + letters[row % 26] + f"-{column + 1}"


def match(
    true_xy: np.ndarray, xy: np.ndarray, score: np.ndarray, radius_um: float
) -> list[tuple[int, int]]:
    """(nucleus, true nucleus): by descending score, each takes the nearest unmatched one within the
    radius.
    """
    pairs, free = [], np.ones(len(true_xy), bool)
    for index in np.argsort(-score, kind="stable"):
        distance = np.where(free, np.linalg.norm(true_xy - xy[index], axis=1), np.inf)
        if len(distance) and distance.min() <= radius_um:
            pairs.append((index, distance.argmin()))
            free[distance.argmin()] = False
    return pairs


def calibration_error(probs: np.ndarray, is_right: np.ndarray, n_bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence|, averaged over the nuclei of equally wide
    bins.
    """
    bins = np.ceil(probs * n_bins).astype(int)
    parts = [bins == number for number in set(bins)]
    return sum(part.mean() * abs(is_right[part].mean() - probs[part].mean()) for part in parts)


def overlaps(outlines: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) areas of intersections and of unions."""
    both = shapely.area(shapely.intersection(outlines[:, None], true[None]))
    return both, shapely.area(outlines)[:, None] + shapely.area(true)[None] - both


def panoptic(outlines: np.ndarray, true: np.ndarray) -> float:
    both, either = overlaps(outlines, true)
    iou = (both / either)[both / either > 0.5]
    return iou.sum() / (len(iou) + (len(outlines) - len(iou) + len(true) - len(iou)) / 2)


def aji(outlines: np.ndarray, true: np.ndarray) -> float:
    """Aggregated Jaccard index of Kumar et al. 2017: unused outlines count for the union."""
    both, either = overlaps(outlines, true)
    intersection = union = 0.0
    used = set()
    for index, shape in enumerate(true):
        best = (both[:, index] / either[:, index]).argmax()
        if both[best, index] > 0:
            intersection, union = intersection + both[best, index], union + either[best, index]
            used.add(best)
        else:
            union += shape.area
    return intersection / (
        union + sum(shape.area for index, shape in enumerate(outlines) if index not in used)
    )


def genes(slide: Slide, xy: np.ndarray, counted: np.ndarray, expand_um: float) -> np.ndarray:
    """(N, G) counts of each nucleus: a position counts for the nearest outline within
    ``expand_um``.
    """
    total = np.zeros((len(slide.outlines), counted.shape[1]))
    for position, values in zip(xy, counted, strict=True):
        distance = shapely.distance(slide.outlines, shapely.Point(position))
        if distance.min() <= expand_um:
            total[distance.argmin()] += values
    return total


def read_slide_table(folder: Path) -> tuple[pd.DataFrame, float]:
    """The nuclei of a slide and the area of its tissue."""
    return pq.read_table(folder / "nuclei.parquet").to_pandas(), float(
        np.load(folder / "tissue.npz")["area_mm2"]
    )


def measures(table: pd.DataFrame, mm2: float) -> dict[str, float]:
    """What groups of patients are compared by: densities, shares of classes, and medians of
    features.
    """
    measured = {"nuclei_per_mm2": len(table) / mm2}
    for name in table["class"].cat.categories:
        n = (table["class"] == name).sum()
        measured |= {f"nuclei_per_mm2_{name}": n / mm2, f"percent_{name}": 100 * n / len(table)}
    features = [name for name in table if name in SIZES or name.startswith("h_")]
    return measured | {f"median_{name}": table[name].median() for name in features}


def compare(
    values: np.ndarray, is_second: np.ndarray, n_repeats: int = 9999
) -> tuple[float, float, float, float]:
    """Means of two groups, Hedges' g, and the p of a two-sided permutation test."""
    is_known = np.isfinite(values)
    values, is_second = values[is_known], is_second[is_known]
    first, second = values[~is_second], values[is_second]
    freedom = len(values) - 2
    pooled = np.sqrt(
        ((len(first) - 1) * first.var(ddof=1) + (len(second) - 1) * second.var(ddof=1)) / freedom
    )
    rng, observed = np.random.default_rng(0), abs(second.mean() - first.mean())
    drawn = rng.permuted(np.tile(is_second, (n_repeats, 1)), axis=1)
    totals = drawn @ values
    differences = totals / len(second) - (values.sum() - totals) / len(first)
    n_as_large = (abs(differences) >= observed - 1e-12).sum()
    p = (1 + n_as_large) / (1 + n_repeats)
    return (
        first.mean(),
        second.mean(),
        (second.mean() - first.mean()) / pooled * (1 - 3 / (4 * freedom - 1)),
        p,
    )


def adjust(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg: over the measures that were tested."""
    tested = np.flatnonzero(np.isfinite(p))
    q = np.full(len(p), np.nan)
    for index in tested:
        at_least = p[tested][p[tested] >= p[index]]
        q[index] = min(1, *(value * len(tested) / (p[tested] <= value).sum() for value in at_least))
    return q
