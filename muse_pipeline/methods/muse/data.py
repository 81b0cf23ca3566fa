"""Data for a pretraining run: images with nucleus positions, and their colours and patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.core.errors import ConfigError, LabelError, MppError, NucleiError
from muse_pipeline.core.files import cache_name
from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.data.nucleus_images import (
    NucleusImage,
    NucleusIndex,
    NucleusSource,
)
from muse_pipeline.data.unlabelled import Picture, picture_files
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import colour_of_fit, read_colour
from muse_pipeline.labels.base_source import LabelSource, read_picture
from muse_pipeline.labels.label_sources import read_labelled_images, require_in_names, require_words
from muse_pipeline.labels.statistics import mean_stains
from muse_pipeline.nuclei.parquet import iterate_rows, read_provenance
from muse_pipeline.store.resample import MAX_COARSER
from muse_pipeline.store.store import Store, open_store
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
) -> PretrainData:
    """Open every source without reading pixels of stores; positions of nuclei are indexed once in
    ``folder``.

    Images with fewer than ``min_nuclei`` nuclei are left out.
    """
    require_words([source.labelled for source in sources if source.labelled is not None])
    folders = [source for source in sources if source.images is not None]
    location_of = {word: source.images for source in folders for word in source.exclude}
    require_in_names(
        location_of, [path.name for source in folders for path in picture_files(source.images)]
    )
    opened = [(image, source) for source in sources for image in _open(source, finest_mpp, folder)]
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


def _open(source: NucleusSource, finest_mpp: float, folder: Path) -> Iterator[NucleusImage]:
    if source.store is not None:
        yield _open_slide(source, finest_mpp, folder)
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


def _open_slide(source: NucleusSource, finest_mpp: float, folder: Path) -> NucleusImage:
    store = open_store(source.store)
    # The views of a set overlap, so they read the same few chunks.
    store.share_chunks()
    slide_mpp = max(store.slide_mpp)
    # A store that is finer than its slide is an enlargement, which shows no more detail than the
    # slide.
    is_enlarged = slide_mpp > store.mpp * MAX_COARSER
    require_fine(store.slide_id, slide_mpp if is_enlarged else store.mpp, finest_mpp)
    return NucleusImage(
        name=store.slide_id,
        patient=source.patient_of(store.slide_id),
        mpp=store.mpp,
        stain=read_colour(source.colour or SlideFiles(source.store.parent).colour).macenko,
        weight=source.weight,
        image=store,
        index=_index(source.proposals, store, folder),
    )


def _index(proposals: Path, store: Store, folder: Path) -> Path:
    """Return the folder with the index of a slide's proposals, after writing it if necessary."""
    if read_provenance(proposals).fingerprint != store.fingerprint:
        raise NucleiError(
            f"{proposals}: contains nuclei of a different slide than {store.path}; correct either"
            " path"
        )
    location = folder / cache_name(proposals, f"{store.mpp} {store.size_px}")
    if not location.is_dir():
        tables = iterate_rows(proposals, 1 << 18, ["x", "y"])
        parts = [np.stack([table["x"].to_numpy(), table["y"].to_numpy()], -1) for table in tables]
        xy = np.concatenate([np.zeros((0, 2)), *parts])
        work_xy = level0_to_work(xy, store.slide_mpp, store.mpp)
        NucleusIndex.build(work_xy, store.size_px, store.mpp)[0].save(location)
    return location


def _read_pictures(
    source: NucleusSource, finest_mpp: float, folder: Path
) -> Iterator[NucleusImage]:
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
        stain = fit_macenko(pixels.reshape(-1, 3))
        if not location.is_dir():
            nuclei = detect_picture(predictor, pixels, mpp, stain)
            NucleusIndex.build(nuclei.xy, pixels.shape[1::-1], mpp)[0].save(location)
        yield NucleusImage(
            name=path.stem,
            patient=source.patient_of(path.stem),
            mpp=mpp,
            stain=stain,
            weight=source.weight,
            image=Picture(pixels),
            index=NucleusIndex.open(location, pixels.shape[1::-1], mpp),
        )


def _read_labelled(source: NucleusSource, finest_mpp: float) -> Iterator[NucleusImage]:
    labels = source.labelled
    mpp = labels.mpp or finest_mpp
    require_fine(str(labels.location), mpp, finest_mpp)
    for image in read_labelled_images([labels], (), mpp, n_rays=3):
        pixels = image.pixels
        yield NucleusImage(
            name=image.name,
            patient=image.patient,
            mpp=mpp,
            stain=fit_macenko(pixels.reshape(-1, 3)),
            weight=source.weight,
            image=Picture(pixels),
            index=NucleusIndex.build(image.nuclei.xy, pixels.shape[1::-1], mpp)[0],
        )
