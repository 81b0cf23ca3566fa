"""Stitch a slide's shards into a table in bounded memory: resolve seams, filter by tissue, measure
outlines.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from muse_pipeline.core.coords import work_to_level0
from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.errors import ModelError, StoreError
from muse_pipeline.core.process import MapInOrder
from muse_pipeline.core.provenance import OTHER_STAIN, ClassSizes, Provenance, SizeRecord
from muse_pipeline.core.types import INTENSITIES_OD, Frame, SlideInfo
from muse_pipeline.features.neighbours import with_surroundings
from muse_pipeline.inference.card import ClassReference, ModelCard
from muse_pipeline.inference.doubts import NuclearSize, SizeSample, judge_classes, judge_scale
from muse_pipeline.inference.predictor import CONSTANT
from muse_pipeline.inference.shards import (
    iterate_groups,
    read_positions,
    read_reports,
    read_shard_facts,
)
from muse_pipeline.inference.stains import stains_with
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.pairs import REACH_UM, SLACK_UM, SeamResolver, cut_apart
from muse_pipeline.nuclei.parquet import (
    CLUSTER,
    QUALITY,
    REGION,
    ROW_GROUP,
    UNLIKE_REGION,
    NucleiWriter,
    OptionalColumns,
    RowFormat,
    Rows,
    left_out,
)
from muse_pipeline.nuclei.rays import clip_rays, rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import MorphologyClusters, ShapeSample, measure_shapes
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.slides.isolation import choose_map
from muse_pipeline.slides.mpp import is_of_scanner
from muse_pipeline.store.grid import Shard, WindowGrid
from muse_pipeline.tissue.mask import KeptArea

if TYPE_CHECKING:  # loading zarr takes as long as stitching a small slide
    from muse_pipeline.features.measure import FeatureMeter, FeatureSettings
    from muse_pipeline.inference.artefacts import ArtefactMap
    from muse_pipeline.inference.region_lookup import SlideRegions

READERS = ("openslide-python", "openslide-bin", "tiffslide", "tifffile", "imagecodecs", "pillow")
PACKAGES = (
    "muse-pipeline",
    "numpy",
    "opencv-python-headless",
    "pyarrow",
    "scipy",
    "shapely",
    "zarr",
    *READERS,
)
MOST_USELESS = 0.001  # largest share of windows with a useless output of the network
OF_EVERY_PIXEL = "h_mean"  # a feature that every nucleus has unless it contains no pixel centre
AT_ONCE = 2048  # number of nuclei whose outlines a thread holds at once
# number of parts made ahead, so that threads do not wait while a row group is written
AHEAD = ROW_GROUP // AT_ONCE


@dataclass(frozen=True)
class ColumnSources:
    """Sources of optional columns of a table of nuclei; None leaves the columns out."""

    regions: SlideRegions | None = None  # regions of the slide, from ``region_lookup.load_regions``
    # settings of the features that are measured for every nucleus
    features: FeatureSettings | None = None
    # artefacts for the column ``quality``, with the kinds that totals leave out
    artefacts: ArtefactMap | None = None
    # densities of DAB (base 10) from which nuclei are 1+, 2+ and 3+
    intensities: Sequence[float] = INTENSITIES_OD


OUTLINES_ALONE = ColumnSources()


def stitch_shards(
    paths: list[Path],
    info: SlideInfo,
    kept: KeptArea,
    output: Path,
    threads: int = 1,
    sources: ColumnSources = OUTLINES_ALONE,
    in_processes: bool = False,
) -> Provenance:
    """Join all shards of a slide, in any order, into ``nuclei.parquet``, and return its provenance.

    Args:
        paths: every shard of the slide.
        info: the slide.
        kept: area in which nuclei are kept.
        output: path of the table.
        threads: number of threads that draw and measure outlines; the file does not depend on it.
        sources: sources of optional columns.
        in_processes: True to start processes instead of many threads; they import the program's
            main module.
    """
    shards = gather_shards(paths, info)
    if shards.common.get("tissue_sha256") not in {None, kept.tissue_sha256}:
        raise StoreError(
            f"{shards.paths[0]}: its nuclei were searched for in different tissue or ROIs; run"
            f" `muse step tile` and `muse step {shards.verb}` for this slide again"
        )
    card = ModelCard.from_json(shards.common["card"], str(paths[0]))
    grid = WindowGrid(
        tuple(shards.common["size_px"]), card.input_px, card.halo_px, shards.common["offset_px"]
    )
    # A row of windows also reports nuclei within the slack above and below its cores.
    row_um = grid.core_px * card.mpp + 2 * SLACK_UM
    names = [nucleus_class.name for nucleus_class in card.classes]

    def nuclei_apart() -> Iterator[Nuclei]:
        return _cut_apart(_find_in_tissue(shards.paths, grid, card.mpp, info, kept), info, row_um)

    # If the model has one class, nuclei are clustered by size and form; a first pass fits the
    # clusters to the slide.
    clusters = _fit_clusters(nuclei_apart(), info) if len(names) == 1 else None
    is_brown = shards.common.get("positive_od") is not None
    brown = stains_with(shards.common.get("third_stain")) if is_brown else None
    meter = None
    if sources.features is not None:
        from muse_pipeline.features.measure import FeatureMeter

        meter = FeatureMeter(sources.features, info, kept, names, brown)
    unlike = None if sources.regions is None else sources.regions.unlike(names, card.unlike)
    measures = Measures(clusters, sources.regions, meter, sources.artefacts, unlike)
    provenance = replace(describe(shards, card, info, kept), **measures.describe())
    if is_brown:
        limits = tuple(sources.intensities)
        provenance = replace(provenance, positive_od=limits[0], intensities_od=limits)
    optional = measures.optional(card.embedding_dim, provenance.positive_od)
    if meter is None:
        around = ((part, None) for part in nuclei_apart())
    else:
        reach_px = meter.reach_um / np.asarray(info.mpp)
        around = with_surroundings(nuclei_apart(), reach_px, row_um / info.mpp[1])
    map_parts = partial(choose_map(threads, provenance.n_windows, in_processes), threads=threads)
    with NucleiWriter(output, names, provenance, card.n_rays, optional) as writer:
        size, of_class = write_nuclei(writer, around, measures, info, map_parts)
        if shards.verb == "detect":
            is_same_stain = shards.common.get("appearance", {}).get("verdict") != OTHER_STAIN
            of_names = dict(zip(names, of_class, strict=True))
            writer.complete(**_judge_sizes(size, of_names, card.nuclei, info, is_same_stain))
    return writer.provenance


def _fit_clusters(parts: Iterable[Nuclei], info: SlideInfo) -> MorphologyClusters:
    sample = ShapeSample(
        lambda nuclei: measure_shapes(rays_to_rings(nuclei.xy, nuclei.rays, info.mpp), info.mpp)
    )
    for nuclei in parts:
        sample.add(nuclei)
    return sample.fit()


def _find_in_tissue(
    paths: Sequence[Path], grid: WindowGrid, mpp: float, info: SlideInfo, kept: KeptArea
) -> Iterator[Nuclei]:
    """Yield the nuclei of shards that lie in the kept area, in the frame level0; no part is
    empty.
    """
    for nuclei in resolve_stream(paths, grid, mpp):
        for start in range(0, len(nuclei), AT_ONCE):
            part = nuclei[start : start + AT_ONCE]
            level0 = replace(part, xy=work_to_level0(part.xy, info.mpp, mpp), frame=Frame.LEVEL0)
            # the last pixel of the work lattice may extend beyond it
            on_slide = (level0.xy < info.size_px).all(1)
            clipped = clip_to_slide(level0[on_slide & kept.contains(level0.xy, info.mpp)], info)
            if len(clipped):
                yield clipped


def _cut_apart(parts: Iterable[Nuclei], info: SlideInfo, row_um: float) -> Iterator[Nuclei]:
    """Yield parts of nuclei with outlines that do not overlap."""
    mpp = np.asarray(info.mpp)
    for nuclei, others in with_surroundings(parts, REACH_UM / mpp, row_um / mpp[1]):
        yield replace(
            nuclei, rays=cut_apart(nuclei.xy * mpp, nuclei.rays, others.xy * mpp, others.rays)
        )


def _judge_sizes(
    size: NuclearSize,
    of_class: Mapping[str, NuclearSize],
    references: Mapping[str, ClassReference],
    info: SlideInfo,
    is_same_stain: bool,
) -> dict[str, SizeRecord | ClassSizes]:
    """Fields of ``Provenance`` for the sizes of nuclei; only slides with the model's stain are
    judged.
    """
    doubt = judge_scale(references, size, of_class, info.mpp) if is_same_stain else ""
    fields = {"nuclear_size": SizeRecord(size.median_area_um2, size.mean_class_probability, doubt)}
    if references:
        sizes = {name: asdict(size) for name, size in of_class.items()}
        # If the pixel size is doubtful, so are areas, and classes cannot be judged by them.
        is_judged = is_same_stain and (not doubt or is_of_scanner(info.mpp_source))
        doubt = judge_classes(references, sizes) if is_judged else ""
        fields["class_sizes"] = ClassSizes(sizes, doubt)
    return fields


@dataclass(frozen=True)
class Measures:
    """Sources of the columns that nuclei have in addition to their outlines; None leaves columns
    out.
    """

    clusters: MorphologyClusters | None
    regions: SlideRegions | None
    meter: FeatureMeter | None
    artefacts: ArtefactMap | None
    unlike: ndarray | None  # classes of nuclei that do not occur in each region

    def describe(self) -> dict[str, Any]:
        """Fields of ``Provenance`` for the given sources."""
        return {
            "morphology": tuple(self.clusters.describe()) if self.clusters else None,
            "regions": None if self.regions is None else self.regions.describe(),
            "features": replace(self.meter.describe(), n_without_pixels=0) if self.meter else None,
            "quality": None if self.artefacts is None else self.artefacts.describe(),
        }

    def optional(self, embedding_dim: int, positive_od: float | None) -> OptionalColumns:
        """The optional columns of the table, which come from these sources, from the network and
        from the stain.
        """
        return OptionalColumns(
            embedding_dim=embedding_dim,
            clusters=self.clusters is not None,
            positive_od=positive_od,
            regions=(
                None if self.regions is None else [region.name for region in self.regions.classes]
            ),
            borders=() if self.regions is None else self.regions.own_borders,
            unlike_region=self.unlike is not None,
            features=self.meter.names if self.meter else (),
            artefacts=None if self.artefacts is None else self.artefacts.kinds,
        )

    def columns(
        self, nuclei: Nuclei, others: Nuclei | None, rings: ndarray, shapes: dict[str, ndarray]
    ) -> dict[str, ndarray]:
        """The columns of ``nuclei`` (frame: level0) with these ``rings`` and ``shapes``; ``others``
        lie around them.
        """
        columns = dict(shapes)
        if self.clusters:
            columns[CLUSTER] = self.clusters.assign(shapes)
        if self.regions is not None:
            columns |= self.regions.columns(nuclei.xy)
            if self.unlike is not None:
                columns[UNLIKE_REGION] = self.regions.are_unlike(columns, nuclei.label, self.unlike)
        if self.artefacts is not None:
            columns[QUALITY] = self.artefacts.at(nuclei.xy)
        if self.meter:
            columns |= self.meter.measure(nuclei, others, rings, shapes)
        return columns


def write_nuclei(
    writer: NucleiWriter,
    parts: Iterator[tuple[Nuclei, Nuclei | None]],
    measures: Measures,
    info: SlideInfo,
    map_parts: MapInOrder,
) -> tuple[NuclearSize, list[NuclearSize]]:
    """Draw, measure and write the outlines of nuclei (frame: level0).

    The result has the sizes of all nuclei and of each class, without nuclei that totals leave out.
    """
    draw = partial(_draw_part, measures=measures, rows=writer.format, info=info)
    of_all = SizeSample()
    of_classes = [SizeSample() for _ in writer.classes]
    n_repaired_outlines = n_without_pixels = n_unlike = n_judged = 0
    for rows, n_repaired, area_um2, nuclei in map_parts(draw, parts, ahead=AHEAD):
        writer.append(rows)
        if measures.meter:
            n_without_pixels += rows.table[OF_EVERY_PIXEL].null_count
        if measures.unlike is not None:
            is_judged = measures.unlike.any(0)[nuclei.label] & to_numpy(
                rows.table[REGION].is_valid()
            )
            n_judged += int(is_judged.sum())
            n_unlike += int(to_numpy(rows.table[UNLIKE_REGION]).sum())
        is_counted = ~left_out(rows.table, writer.provenance)
        of_all.add(area_um2[is_counted], nuclei.prob[is_counted])
        for label, sample in enumerate(of_classes):
            own = is_counted & (nuclei.label == label)
            sample.add(area_um2[own], nuclei.prob[own])
        n_repaired_outlines += n_repaired
    writer.complete(n_repaired_outlines=n_repaired_outlines)
    if measures.meter:
        writer.complete(
            features=replace(writer.provenance.features, n_without_pixels=n_without_pixels)
        )
    if measures.unlike is not None:
        writer.complete(
            regions=replace(writer.provenance.regions, n_unlike_region=n_unlike, n_judged=n_judged)
        )
    return of_all.measure(), [sample.measure() for sample in of_classes]


def _draw_part(
    part: tuple[Nuclei, Nuclei | None], measures: Measures, rows: RowFormat, info: SlideInfo
) -> tuple[Rows, int, ndarray, Nuclei]:
    """Rows of a part of the nuclei, the number of repaired outlines, and the areas of the nuclei,
    which follow.
    """
    level0, others = part
    rings = rays_to_rings(level0.xy, level0.rays, info.mpp)
    polygons, n_repaired = rings_to_polygons(rings, size_px=info.size_px)
    shapes = measure_shapes(rings, info.mpp)
    table = rows.to_rows(level0, polygons, measures.columns(level0, others, rings, shapes))
    return table, n_repaired, shapes["area_um2"], level0


def clip_to_slide(nuclei: Nuclei, info: SlideInfo) -> Nuclei:
    """Nuclei (frame: level0) with rays that end within the slide, and within the scanner's bounds
    if there are any.
    """
    rays = nuclei.rays
    for box in ((0, 0, *info.size_px), info.scanned_box):
        rays = clip_rays(nuclei.xy, rays, info.mpp, box)
    return replace(nuclei, rays=rays)


@dataclass(frozen=True)
class ShardSet:
    """All shards of one slide, in order, with their facts."""

    paths: list[Path]
    facts: list[dict[str, Any]]

    @property
    def common(self) -> dict[str, Any]:
        """Facts that are the same in all shards."""
        return self.facts[0]["common"]

    @property
    def verb(self) -> str:
        """Command that wrote the shards, "detect" or "propose"."""
        return "propose" if "proposer" in self.common else "detect"


def gather_shards(paths: list[Path], info: SlideInfo) -> ShardSet:
    """Check that ``paths`` are all shards of one run of one model on this slide, and read their
    facts.
    """
    facts = {path: read_shard_facts(path) for path in paths}
    ordered = sorted(paths, key=lambda path: Shard.parse(facts[path]["shard"]).index)
    shards = [Shard.parse(facts[path]["shard"]) for path in ordered]
    if [shard.index for shard in shards] != list(range(1, shards[0].count + 1)) or len(
        {s.count for s in shards}
    ) != 1:
        given = ", ".join(map(str, shards))
        raise StoreError(
            f"{paths[0].parent}: found shards {given}; give each of the {shards[0].count} exactly"
            " once"
        )
    gathered = ShardSet(ordered, [facts[path] for path in ordered])
    common, verb = gathered.common, gathered.verb
    for path in ordered:
        if facts[path]["common"] != common:
            raise StoreError(
                f"{path}: made from a different store or model, or by a different version, than"
                f" {ordered[0].name}; delete the shards, and run `muse step {verb}` for this"
                " slide or the workflow again"
            )
    if common["fingerprint"] != info.fingerprint:
        raise StoreError(
            f"{ordered[0]}: made from a different file of slide '{info.slide_id}'; run `muse"
            f" step {verb}` for it again"
        )
    if common["slide_mpp"] != list(info.mpp):
        raise StoreError(
            f"{ordered[0]}: made for {common['slide_mpp']} um/px of slide '{info.slide_id}', which"
            f" now has {list(info.mpp)} um/px; run `muse step tile` and `muse step {verb}` for it"
            " again"
        )
    return gathered


def resolve_stream(paths: list[Path], grid: WindowGrid, mpp: float) -> Iterator[Nuclei]:
    """Yield the final nuclei (frame: work) of shards in order, window by window, without empty
    parts.

    Only the positions in a row of windows, which is as wide as the slide, are in memory. Positions
    are read ahead; the nuclei themselves are read once it is known which of them are kept.
    """
    groups = (nuclei for path in paths for nuclei in iterate_groups(path, read_reports))
    for nuclei, kept in zip(groups, choose_reports(paths, grid, mpp), strict=True):
        if len(kept):
            yield nuclei[kept]


def choose_reports(paths: list[Path], grid: WindowGrid, mpp: float) -> Iterator[ndarray]:
    """Yield, for each group of the shards, the indices (n,) of the nuclei that are kept, in the
    order of the table.
    """
    seams = SeamResolver(grid, mpp)
    # indices of the nuclei to be returned, and ends of the groups
    chosen, stops = np.zeros(0, np.int64), deque([0])
    for part in chain(*(iterate_groups(path, read_positions) for path in paths), [None]):
        if part is not None:
            stops.append(stops[-1] + len(part[1]))
        chosen = np.concatenate([chosen, seams.finish() if part is None else seams.add(*part)])
        # A group is yielded once it is known which of its nuclei are kept.
        while len(stops) > 1 and stops[1] <= seams.n_decided:
            here = chosen < stops[1]
            yield chosen[here] - stops.popleft()
            chosen = chosen[~here]


# Optional facts that are copied from the shards to the provenance.
KEPT_FACTS = ("refiner_sha256", "appearance", "positive_od", "third_stain", "proposer", "warnings")


def count_useless(n_by_fault: Counter[str], n_windows: int) -> int:
    """Number of windows whose output of the network is useless, without a single constant one of
    several windows, which proves nothing: it may show dust on glass.
    """
    is_dust = n_by_fault[CONSTANT] == 1 < n_windows
    return n_by_fault.total() - is_dust


def describe(shards: ShardSet, card: ModelCard, info: SlideInfo, kept: KeptArea) -> Provenance:
    """Describe slide, tissue, model, settings and versions; repeated runs have equal
    descriptions.
    """
    common = shards.common
    n_guarded = Counter()  # windows that were excluded from detection, by reason
    for facts in shards.facts:
        n_guarded.update(
            {reason: len(windows) for reason, windows in facts.get("guarded_windows", {}).items()}
        )
    n_windows = sum(facts["n_windows"] for facts in shards.facts)
    n_useless = count_useless(n_guarded, n_windows)
    if shards.verb == "detect" and n_useless > MOST_USELESS * n_windows:
        raise ModelError(
            f"{info.slide_id}: for {n_guarded.total():,} of {n_windows:,} windows of tissue, model"
            f" '{card.name}' returns {' or '.join(n_guarded)}, so nuclei are missing there; export"
            " the network again in float32, and check its input scaling"
        )
    described = {
        "slide_id": info.slide_id,
        "fingerprint": info.fingerprint,
        "slide_mpp": list(info.mpp),
        "mpp_source": info.mpp_source,
        "reader": info.reader,
        "bounds": None if info.bounds is None else vars(info.bounds),
        "model": {"name": card.name, "sha256": common["model_sha256"]},
        "card": json.loads(common["card"]),
        "provider": common["provider"],
        "colour": common["colour"],
        "n_windows": n_windows,
        "full_windows": sorted(
            window for facts in shards.facts for window in facts["full_windows"]
        ),
        "corrupt_fraction": common["corrupt_fraction"],
        **{name: common[name] for name in KEPT_FACTS if name in common},
        **({"guarded_windows": dict(n_guarded)} if n_guarded or "warnings" in common else {}),
        "versions": find_versions(PACKAGES) | common["versions"],
        "tissue_sha256": kept.tissue_sha256,
        **({"roi": kept.roi_file} if kept.roi_file is not None else {}),
    }
    return Provenance.from_dict(described)
