"""DICOM annotations, read back with highdicom."""

import json

import numpy as np
import pytest
from finished_slide import draw_tissue, write_slide
from highdicom.ann import MicroscopyBulkSimpleAnnotations
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

import muse_pipeline
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.errors import OutputError
from muse_pipeline.outputs.base import FinishedSlide
from muse_pipeline.outputs.dicom import Dicom


def write_level(path, width, series="1.2.3.4"):
    """Write the header of one level of a DICOM slide, with as few elements as in the files of some
    converters.
    """
    level = Dataset()
    level.file_meta = FileMetaDataset()
    level.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    level.SOPClassUID, level.SOPInstanceUID = (
        VLWholeSlideMicroscopyImageStorage,
        generate_uid(entropy_srcs=[path.name]),
    )
    level.SeriesInstanceUID, level.StudyInstanceUID, level.FrameOfReferenceUID = (
        series,
        "1.2.3",
        "1.2.3.5",
    )
    level.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    level.TotalPixelMatrixColumns = level.TotalPixelMatrixRows = width
    level.Modality, level.SeriesNumber = "SM", 1
    level.ContentDate, level.ContentTime = "20200102", "030405"
    level.save_as(path, enforce_file_format=True)


@pytest.fixture
def slide(tmp_path) -> FinishedSlide:
    folder = write_slide(tmp_path / "results", "S1", draw_tissue((512, 512), 60))
    info = json.loads((folder / "slide.json").read_text())
    width, dicoms = info["size_px"][0], tmp_path / "dicom"
    dicoms.mkdir()
    write_level(dicoms / "0.dcm", width, series="9.9")
    write_level(dicoms / "1.dcm", width // 4)
    write_level(dicoms / "2.dcm", width)
    info["path"] = str(dicoms / "1.dcm")
    (folder / "slide.json").write_text(json.dumps(info))
    return FinishedSlide(SlideFiles(folder), {})


def test_a_group_per_class_has_the_outlines_of_its_nuclei(slide):
    Dicom("dicom").write(slide)
    written = slide.files.folder / "nuclei.dcm"
    annotations = MicroscopyBulkSimpleAnnotations.from_dataset(dcmread(written))
    (reference,) = annotations.ReferencedImageSequence
    assert reference.ReferencedSOPInstanceUID == generate_uid(
        entropy_srcs=["2.dcm"]
    )  # the slide's level 0
    nuclei = muse_pipeline.read_nuclei(slide.files.nuclei)
    groups = {group.label: group for group in annotations.get_annotation_groups()}
    assert {name: group.number_of_annotations for name, group in groups.items()} == dict(
        nuclei["class"].value_counts()[lambda n: n > 0]
    )
    for name, group in groups.items():
        of_class = nuclei[nuclei["class"] == name]
        assert group.annotated_property_type.value == "84640000"  # "nucleus" in SNOMED CT
        for drawn, outline in zip(group.get_graphic_data("2D"), of_class.geometry, strict=True):
            np.testing.assert_allclose(drawn, np.array(outline.exterior.coords)[:-1], atol=1e-3)
        _, values, _ = group.get_measurements()
        np.testing.assert_allclose(values[:, 0], of_class.area_um2, rtol=1e-6)
    first = written.read_bytes()
    Dicom("dicom").write(slide)
    assert written.read_bytes() == first


def test_a_slide_that_is_not_dicom_is_rejected(slide, tmp_path):
    info = json.loads(slide.files.info.read_text())
    (tmp_path / "slide.svs").write_bytes(b"II*\0" + bytes(400))
    slide.files.info.write_text(json.dumps({**info, "path": str(tmp_path / "slide.svs")}))
    with pytest.raises(OutputError, match="DICOM slides"):
        Dicom("dicom").write(slide)


def test_a_series_without_the_level_is_rejected(slide, tmp_path):
    (tmp_path / "dicom/2.dcm").unlink()
    with pytest.raises(OutputError, match="1,024 px wide"):
        Dicom("dicom").write(slide)
