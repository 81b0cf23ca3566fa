"""Data for a pretraining run: images with nucleus positions, and their colours and patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.core.errors import ConfigError, LabelError, MppError, NucleiError
from muse_pipeline.core.files import cache_name, sha256_of
from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.data.nucleus_images import (
    NucleusImage,
    NucleusIndex,
    NucleusPicture,
    NucleusSlide,
    NucleusSource,
)
from muse_pipeline.data.unlabelled import picture_files
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.region_lookup import load_regions, read_record
from muse_pipeline.inference.stains import colour_of_fit, read_colour
from muse_pipeline.labels.base_source import LabelSource, read_picture
from muse_pipeline.labels.label_sources import read_labelled_images, require_in_names, require_words
from muse_pipeline.labels.statistics import mean_stains
from muse_pipeline.nuclei.parquet import REGION, iterate_rows, read_provenance
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.resample import MAX_COARSER
from muse_pipeline.store.store import Store, open_store
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.run import Log

# views may be finer than an image by this factor, because mpps of scanners are not round numbers
MPP_TOLERANCE = 1.005


@dataclass(frozen=True, eq=False)
class PretrainData:
    """The N images with at least ``min_nuclei`` nuclei."""

    images: list[NucleusImage]  # images from all sources
    colours: np.ndarray  # (N, 3, 4) colour map of each image, in optical density
    reference: ColourReference  # colour reference that the maps normalise to
    sources: list[NucleusSource]  # source of each image

    @property
    def patients(self) -> list[str]:
        """Names of the images' patients, sorted."""
        return sorted({image.patient for image in self.images})


def read_pretrain_data(
    sources: Sequence[NucleusSource],
    finest_mpp: float,
    min_nuclei: int,
    folder: Path,
    log: Log = lambda sentence: None,
    region_weights: Mapping[str, float] = MappingProxyType({}),
) -> PretrainData:
    """Open every source without reading pixels of stores; positions of nuclei are indexed once in
    ``folder``.

    Images with fewer than ``min_nuclei`` nuclei are left out. ``region_weights`` are those of
    ``MuseConfig``, and apply to slides only.
    """
    require_words([source.labelled for source in sources if source.labelled is not None])
    folders = [source for source in sources if source.images is not None]
    location_of = {word: source.images for source in folders for word in source.exclude}
    require_in_names(
        location_of, [path.name for source in folders for path in picture_files(source.images)]
    )
    regions = RegionWeights(region_weights, log)
    opened = [
        (image, source)
        for source in sources
        for image in _open(source, finest_mpp, folder, regions)
    ]
    kept = [(image, source) for image, source in opened if len(image.nuclei.xy) >= min_nuclei]
    if not kept:
        raise ConfigError(
            f"no image has {min_nuclei} nuclei (of {count_noun(len(opened), 'image')}); check the"
            " nuclei that were found there, or lower `min_nuclei`"
        )
    if len(kept) < len(opened):
        few = next(image.name for image, _ in opened if len(image.nuclei.xy) < min_nuclei)
        n = count_noun(len(opened) - len(kept), "image was", "images were")
        log(f"{n} left out, first {few}, with fewer than {min_nuclei} nuclei")
    images, of_images = map(list, zip(*kept, strict=True))
    regions.require_use(images)
    fits = [image.stain for image in images]
    reference = (
        mean_stains(fits, "macenko") if any(fit is not None for fit in fits) else ColourReference()
    )
    return PretrainData(
        images, np.stack([colour_of_fit(reference, fit) for fit in fits]), reference, of_images
    )


def require_apart(patients: Sequence[str], held: Sequence[LabelSource]) -> None:
    """Require that no patient is in both pretraining and evaluation."""
    judged = {patient for source in held for patient in map(source.patient_of, source.choose())}
    if shared := sorted(judged & set(patients)):
        raise LabelError(
            f"{some_of(shared)}: in `held`, and also in `sources` or in the training data of the"
            " initial weights, so the backbone would be evaluated on its training data; `exclude`"
            " them from `held` or from `sources`"
        )


def _open(
    source: NucleusSource, finest_mpp: float, folder: Path, regions: RegionWeights
) -> Iterator[NucleusImage]:
    if source.store is not None:
        yield _open_slide(source, finest_mpp, folder, regions)
    elif source.images is not None:
        yield from _read_pictures(source, finest_mpp, folder)
    else:
        yield from _read_labelled(source, finest_mpp)


def require_fine(name: str, mpp: float, finest_mpp: float) -> None:
    """Reject an image that is too coarse for the views."""
    if finest_mpp * MPP_TOLERANCE < mpp:
        raise MppError(
            f"{name}: is at {mpp:g} um/px, coarser than views at {finest_mpp:g}; raise `views.mpp`,"
            " or write a finer store (`extra_mpps`)"
        )


def _open_slide(
    source: NucleusSource, finest_mpp: float, folder: Path, regions: RegionWeights
) -> NucleusSlide:
    store = open_store(source.store)
    # The views of a set overlap, so they read the same few chunks.
    store.share_chunks()
    slide_mpp = max(store.slide_mpp)
    # A store that is finer than its slide is an enlargement, which shows no more detail than the
    # slide.
    is_enlarged = slide_mpp > store.mpp * MAX_COARSER
    require_fine(store.slide_id, slide_mpp if is_enlarged else store.mpp, finest_mpp)
    return NucleusSlide(
        name=store.slide_id,
        patient=source.patient_of(store.slide_id),
        mpp=store.mpp,
        size_px=store.size_px,
        stain=read_colour(source.colour or SlideFiles(source.store.parent).colour).macenko,
        weight=source.weight,
        store=store,
        folder=_index(source, store, folder, regions),
    )


def _index(source: NucleusSource, store: Store, folder: Path, regions: RegionWeights) -> Path:
    """Return the folder with the index of a slide's proposals, after writing it if necessary."""
    proposals = source.proposals
    if read_provenance(proposals).fingerprint != store.fingerprint:
        raise NucleiError(
            f"{proposals}: contains nuclei of a different slide than {store.path}; correct either"
            " path"
        )
    location = folder / cache_name(
        proposals, f"{store.mpp} {store.size_px}{regions.describe(source)}"
    )
    if not location.is_dir():
        tables = iterate_rows(proposals, 1 << 18, ["x", "y"])
        parts = [np.stack([table["x"].to_numpy(), table["y"].to_numpy()], -1) for table in tables]
        xy = np.concatenate([np.zeros((0, 2)), *parts])
        if n_wrong := int((~np.isfinite(xy).all(1)).sum()):
            raise NucleiError(
                f"{proposals}: {n_wrong} of {len(xy)} positions are not numbers; write the file"
                " again"
            )
        work_xy = level0_to_work(xy, store.slide_mpp, store.mpp)
        index, order = NucleusIndex.build(work_xy, store.size_px, store.mpp)
        if regions.weights:
            index = index.with_weights(regions.weigh(source, xy[order]))
        index.save(location)
    return location


@dataclass(frozen=True)
class RegionWeights:
    """Weights of nuclei that depend on the class of their tissue region."""

    weights: Mapping[
        str, float
    ]  # class -> weight of its nuclei; all other nuclei have the weight 1
    log: Log  # callback for lines about slides on which the region model failed

    def describe(self, source: NucleusSource) -> str:
        """String that identifies the weights of a slide's nuclei; empty if no weights are set."""
        if not self.weights:
            return ""
        return f" {sorted(self.weights.items())} {cache_name(_file_of_regions(source), '')}"

    def weigh(self, source: NucleusSource, xy: np.ndarray) -> np.ndarray:
        """(N,) weights of a slide's nuclei at (N, 2) level-0 px."""
        files = SlideFiles(source.store.parent)
        info = read_info(files.info)
        regions = load_regions(
            source.regions or files.folder, info, TissueMask.load(files.mask, info).kept
        )
        if regions.failure:
            reason = f"because it has no regions ({regions.failure})"
            self.log(f"{info.slide_id}: all its nuclei have the weight 1, {reason}")
            return np.ones(len(xy))
        names = [region_class.name for region_class in regions.classes]
        unknown = [name for name in self.weights if name not in names]
        if unknown and source.regions is None:
            raise ConfigError(
                f"region_weights: the region map of slide '{info.slide_id}' has no class"
                f" {some_of(unknown)}; its classes are {', '.join(names)}"
            )
        weights = np.array(
            [*(self.weights.get(name, 1.0) for name in names), 1.0]
        )  # last: outside regions
        return weights[regions.columns(xy)[REGION]]

    def require_use(self, images: Sequence[NucleusImage]) -> None:
        """Reject region weights that affect no nucleus of any slide."""
        # The extent is the sum of the cells' weights, which is the number of cells if every nucleus
        # has the weight 1.
        if self.weights and all(
            image.nuclei.extent == len(image.nuclei.occupied) for image in images
        ):
            raise ConfigError(
                f"region_weights: no slide has nuclei in {' or '.join(self.weights)}; correct the"
                " names of the classes or leave `region_weights` out"
            )


def _file_of_regions(source: NucleusSource) -> Path:
    """The file with a slide's drawn areas, or the record of its region map."""
    if source.regions is None:
        read_record(source.store.parent)
        return SlideFiles(source.store.parent).regions
    if not source.regions.is_file():
        raise ConfigError(
            f"{source.regions}: the file of areas does not exist; correct `regions` in the config"
        )
    return source.regions


def checksums_of_regions(sources: Sequence[NucleusSource]) -> dict[str, str]:
    """Checksums of the region maps next to the stores of ``sources``, keyed by name ("source 0:
    regions.json").
    """
    return {
        f"source {number}: regions.json": sha256_of(_file_of_regions(source))
        for number, source in enumerate(sources)
        if source.store is not None and source.regions is None
    }


def _read_pictures(
    source: NucleusSource, finest_mpp: float, folder: Path
) -> Iterator[NucleusPicture]:
    paths = [
        path
        for path in picture_files(source.images)
        if not any(word in path.name for word in source.exclude)
    ]
    if not paths:
        raise ConfigError(
            f"{source.images}: contains no picture; correct `images` or `exclude` in the config"
        )
    predictor = Predictor(find_model(source.detector))
    for path in paths:
        pixels, mpp = read_picture(path, source.mpp)
        require_fine(path.stem, mpp, finest_mpp)
        location = folder / cache_name(path, f"{mpp} {predictor.sha256}")
        size_px = pixels.shape[1], pixels.shape[0]
        if not location.is_dir():
            nuclei = detect_picture(predictor, pixels, mpp, fit_macenko(pixels.reshape(-1, 3)))
            NucleusIndex.build(nuclei.xy, size_px, mpp)[0].save(location)
        yield _picture(
            path.stem, source, pixels, mpp, NucleusIndex.open(location, size_px, mpp, mapped=False)
        )


def _read_labelled(source: NucleusSource, finest_mpp: float) -> Iterator[NucleusPicture]:
    labels = source.labelled
    mpp = labels.mpp or finest_mpp
    require_fine(str(labels.location), mpp, finest_mpp)
    for image in read_labelled_images([labels], (), mpp, n_rays=3):
        nuclei, _ = NucleusIndex.build(image.nuclei.xy, image.pixels.shape[1::-1], mpp)
        yield _picture(image.name, source, image.pixels, mpp, nuclei, image.patient)


def _picture(
    name: str,
    source: NucleusSource,
    pixels: np.ndarray,
    mpp: float,
    nuclei: NucleusIndex,
    patient: str | None = None,
) -> NucleusPicture:
    return NucleusPicture(
        name=name,
        patient=patient or source.patient_of(name),
        mpp=mpp,
        size_px=(pixels.shape[1], pixels.shape[0]),
        stain=fit_macenko(pixels.reshape(-1, 3)),
        weight=source.weight,
        pixels=pixels,
        nuclei=nuclei,
    )
