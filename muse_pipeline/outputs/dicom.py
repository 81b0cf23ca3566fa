"""The nuclei as annotations for a picture archive (PACS), in DICOM's Microscopy Bulk Simple
Annotations.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from muse_pipeline.core.errors import OutputError
from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output

if TYPE_CHECKING:
    import geopandas
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.ann import AnnotationGroup
    from pydicom import Dataset

MAKER, SERIES_NUMBER = "MUSE pipeline", 9001
# Attributes of the patient and the study that may be empty but not missing; some converters leave
# them out.
MAY_BE_EMPTY = [
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
]


@OUTPUTS.register("dicom")
class Dicom(Output):
    """The file ``nuclei.dcm``: a group per class, with outlines in level-0 pixels and areas as
    measurements.

    The annotations refer to the slide by its DICOM identifiers, so that a viewer shows them on the
    slide.
    """

    files = ("nuclei.dcm",)
    switch = Setting(
        "dicom",
        False,
        {"type": "boolean"},
        "also write `nuclei.dcm`, DICOM annotations of a DICOM slide for a PACS",
        "See [docs/guide/outputs.md](../docs/guide/outputs.md#dicom-annotations)",
        in_file_only=True,
    )
    rank = 70
    requires = "highdicom", "dicom"

    @override
    def write(self, slide: FinishedSlide) -> None:
        from muse_pipeline.core.files import complete_file
        from muse_pipeline.geodataframe import read_nuclei
        from muse_pipeline.nuclei.parquet import footer_checksum
        from muse_pipeline.slides.inspect import read_info

        info = read_info(slide.files.info)
        source = find_source(Path(info.path), info.size_px[0])
        annotations = annotate(
            read_nuclei(slide.files.nuclei), source, footer_checksum(slide.files.nuclei)
        )
        with complete_file(slide.files.folder / self.files[0]) as partial:
            annotations.save_as(partial, enforce_file_format=True)


def find_source(path: Path, width_px: int) -> Dataset:
    """Read the header of the DICOM file of a slide's level 0, which is ``width_px`` wide.

    The slide has a file at ``path``, and all its files must be in the same folder.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        series = dcmread(path, stop_before_pixels=True).SeriesInstanceUID
    except (InvalidDicomError, OSError, AttributeError) as error:
        raise OutputError(
            f"{path}: `dicom` is for DICOM slides, but this file is not DICOM; convert it, for"
            " example with wsidicomizer, or leave `dicom` out"
        ) from error
    for file in sorted(path.parent.glob("*.dcm")):
        header = dcmread(file, stop_before_pixels=True)
        is_level_0 = header.get("TotalPixelMatrixColumns") == width_px
        if (
            is_level_0
            and header.get("SeriesInstanceUID") == series
            and "VOLUME" in header.ImageType
        ):
            return header
    raise OutputError(
        f"{path}: no file of its series is {width_px:,} px wide; copy the whole series to this"
        " folder"
    )


def annotate(nuclei: geopandas.GeoDataFrame, source: Dataset, checksum: str) -> Dataset:
    """Make annotations of a slide's nuclei (absolute level-0 px); the same nuclei always give the
    same bytes.

    DICOM identifiers are derived from the ``checksum`` of the nuclei and the ``source``, the header
    of level 0.
    """
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.ann import MicroscopyBulkSimpleAnnotations
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    from muse_pipeline import __version__

    for name in MAY_BE_EMPTY:
        if name not in source:
            setattr(source, name, "")
    model, key = str(nuclei.attrs["model"]), [source.SOPInstanceUID, __version__, checksum]
    algorithm = AlgorithmIdentificationSequence(
        name=model, family=codes.DCM.ArtificialIntelligence, version=__version__, source=MAKER
    )
    groups = [
        _make_group(
            number, str(name), members, algorithm, generate_uid(entropy_srcs=[*key, str(name)])
        )
        for number, (name, members) in enumerate(nuclei.groupby("class", observed=True), start=1)
    ]
    annotations = MicroscopyBulkSimpleAnnotations(
        source_images=[source],
        annotation_coordinate_type="2D",
        annotation_groups=groups,
        series_instance_uid=generate_uid(entropy_srcs=[*key, "series"]),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(entropy_srcs=[*key, "instance"]),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=model,
        software_versions=__version__,
        device_serial_number="0",
        content_description="Nuclei",
    )
    for moment in (
        "Date",
        "Time",
    ):  # highdicom writes the current date and time, which would change the bytes
        value = source.get(f"Content{moment}", annotations[f"Content{moment}"].value)
        for kind in ("Content", "InstanceCreation"):
            setattr(annotations, f"{kind}{moment}", value)
    for equipment in annotations.ContributingEquipmentSequence:
        equipment.ContributionDateTime = f"{annotations.ContentDate}{annotations.ContentTime}"
    return annotations


def _make_group(
    number: int,
    name: str,
    nuclei: geopandas.GeoDataFrame,
    algorithm: AlgorithmIdentificationSequence,
    uid: str,
) -> AnnotationGroup:
    import numpy as np
    from highdicom.ann import AnnotationGroup, Measurements
    from pydicom.sr.codedict import codes

    areas = nuclei.area_um2.to_numpy(np.float32)
    return AnnotationGroup(
        number=number,
        uid=uid,
        label=name,
        annotated_property_category=codes.SCT.AnatomicalStructure,
        annotated_property_type=codes.SCT.Nucleus,
        graphic_type="POLYGON",
        graphic_data=[
            np.asarray(outline.exterior.coords, np.float32)[:-1] for outline in nuclei.geometry
        ],
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        measurements=[
            Measurements(name=codes.SCT.Area, unit=codes.UCUM.SquareMicrometer, values=areas)
        ],
    )
