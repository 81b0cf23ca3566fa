"""`muse bins` counts genes in nuclei, from synthetic folders in the layouts of Space Ranger and
Xenium.
"""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
from finished_slide import draw_tissue, write_slide
from scipy import sparse

import muse_pipeline
from muse_pipeline.core.files import read_json
from muse_pipeline.scverse.bins import _assign

GENES = ["CD3D", "EPCAM", "VIM"]
ALIGNMENT = "he_imagealignment.csv"
OFFSET_UM = np.array([300.0, -40.0])  # from the slide's um to those of Xenium's picture


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """(folder, nuclei, mpp of level 0, size in px) of a slide."""
    folder = write_slide(tmp_path_factory.mktemp("results"), "S1", draw_tissue((512, 512), 80))
    info = read_json(folder / "slide.json")
    return (
        folder,
        muse_pipeline.read_nuclei(folder / "nuclei.parquet"),
        info["mpp"][0],
        info["size_px"],
    )


def draw_spots(slide, step_um=2.0):
    """A lattice over the slide (N, 2) um, and counts (N, 3) of three genes, each expressed by one
    class of nuclei.
    """
    _, nuclei, mpp, size = slide
    axis = np.arange(1, size[0] * mpp, step_um)
    xy_um = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    label = np.full(len(xy_um), -1)
    spot, nucleus = shapely.STRtree(nuclei.geometry.to_numpy()).query(
        shapely.points(xy_um / mpp), "intersects"
    )
    label[spot] = nuclei["class"].cat.codes.to_numpy()[nucleus]
    return xy_um, (label[:, None] == np.arange(3)) * np.array([3, 2, 1])


def write_visium_hd(
    folder, slide, *, barcodes=None, depth=1, moved_um=0.0, bin_um=2, names=GENES, types=None
):
    """Write ``binned_outputs`` with bins of ``bin_um``, and an empty folder for bins of 16 um."""
    xy_um, counts = draw_spots(slide, bin_um)
    xy_um, counts = xy_um + np.array([moved_um, 0]), counts * depth
    bins = folder / f"square_{bin_um:03d}um"
    (bins / "spatial").mkdir(parents=True)
    (folder / "square_016um").mkdir()
    spots = np.array([f"s_{bin_um:03d}um_{i:05d}-1" for i in range(len(xy_um))])
    matrix = sparse.csc_matrix(counts.T)
    with h5py.File(bins / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"], group["barcodes"] = matrix.shape, spots.astype("S")
        group["features/name"], group["features/id"] = (
            np.array(names, "S"),
            np.array(["E1", "E2", "E3"], "S"),
        )
        if types:
            group["features/feature_type"] = np.array(types, "S")
    x, y = (xy_um / slide[2]).T
    table = {
        "barcode": spots if barcodes is None else barcodes,
        "pxl_row_in_fullres": y,
        "pxl_col_in_fullres": x,
    }
    pd.DataFrame(table).sample(frac=1, random_state=0).to_parquet(
        bins / "spatial/tissue_positions.parquet"
    )
    (bins / "spatial/scalefactors_json.json").write_text(
        json.dumps({"microns_per_pixel": slide[2]})
    )
    return folder


def write_xenium(folder, slide):
    """Write ``transcripts.parquet`` in um of Xenium's picture, and the matrix from the slide's
    pixels to its pixels.
    """
    xy_um, counts = draw_spots(slide)
    spot, gene = counts.nonzero()
    spot, gene = (np.repeat(each, counts[spot, gene]) for each in (spot, gene))
    x, y = (xy_um[spot] + OFFSET_UM).T
    table = pd.DataFrame(
        {"feature_name": np.array(GENES)[gene], "x_location": x, "y_location": y, "qv": 30.0}
    )
    poor = table.assign(qv=10.0)
    control = table.iloc[:50].assign(feature_name="NegControlProbe_00042")
    folder.mkdir()
    pd.concat([table, poor, control]).to_parquet(folder / "transcripts.parquet")
    scale, shift = slide[2] / 0.2125, OFFSET_UM / 0.2125
    rows = [[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]]
    (folder / ALIGNMENT).write_text("\n".join(",".join(map(str, row)) for row in rows))
    return folder / "transcripts.parquet", folder / ALIGNMENT


def read_bins(path):
    with h5py.File(path) as file:
        assert file["X"].attrs["encoding-type"] == "csr_matrix"
        parts = tuple(file[f"X/{name}"][:] for name in ("data", "indices", "indptr"))
        counts = sparse.csr_matrix(parts, shape=tuple(file["X"].attrs["shape"])).toarray()
        assert file["obsm/features"].shape == (len(counts), len(file["uns/features"]))
        return counts, file["var/_index"].asstr()[:].tolist()


def expected_counts(slide):
    _, nuclei, mpp, _ = slide
    xy_um, counts = draw_spots(slide)
    inside = shapely.intersects(
        nuclei.geometry.to_numpy()[:, None], shapely.points(xy_um / mpp)[None]
    )
    return inside @ counts


def are_alone(slide):
    """(N,) bool: True for nuclei whose outlines meet no other."""
    outlines = slide[1].geometry.to_numpy()
    return shapely.intersects(outlines[:, None], outlines[None]).sum(1) == 1


@pytest.mark.parametrize("assay", ["visium", "xenium"])
def test_counts_of_each_nucleus_are_those_of_the_positions_in_it(slide, tmp_path, muse, assay):
    output = tmp_path / "bins.h5ad"
    if assay == "visium":
        given = ["--visium-hd", write_visium_hd(tmp_path / "binned_outputs", slide)]
    else:
        transcripts, matrix = write_xenium(tmp_path / "outs", slide)
        given = f"--xenium {transcripts} --transform {matrix}".split()
    status, shown, printed = muse(f"bins {slide[0]}", *given, "--expand-um", "0", "-o", output)
    assert (status, printed) == (0, "")
    counts, genes = read_bins(output)
    assert genes == GENES
    alone = are_alone(slide)
    assert alone.sum() > 20
    np.testing.assert_array_equal(counts[alone], expected_counts(slide)[alone])
    assert "100.0% of the counts" in shown


SIDE = 1024  # of the slide, px
TURNED = {  # positions of a picture in another orientation, from those of the slide
    "x and y exchanged;": lambda x, y: (y, x),
    "x mirrored;": lambda x, y: (SIDE - x, y),
    "y mirrored;": lambda x, y: (x, SIDE - y),
    "both mirrored (a turn by 180": lambda x, y: (SIDE - x, SIDE - y),
    "mirrored (a turn by 90 degrees clockwise": lambda x, y: (y, SIDE - x),
    "mirrored (a turn by 90 degrees counter": lambda x, y: (SIDE - y, x),
    "exchanged, then both mirrored;": lambda x, y: (SIDE - y, SIDE - x),
}


def turn(bins, orientation):
    """Write the positions of bins in another orientation."""
    table, columns = pd.read_parquet(bins), ["pxl_col_in_fullres", "pxl_row_in_fullres"]
    table[columns] = np.stack(TURNED[orientation](*table[columns].to_numpy().T), 1)
    table.to_parquet(bins)


def test_too_few_counts_are_named(slide, tmp_path, muse):
    folder = write_visium_hd(tmp_path / "binned_outputs", slide)
    status, shown, printed = muse(f"bins {slide[0]} --visium-hd {folder} -o {tmp_path / 'a.h5ad'}")
    assert (status, printed) == (0, "") and "too few counts to judge the alignment" in shown


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("none", ""),
        ("3 um", ""),
        ("20 um", "times the counts of positions displaced by 20 um"),
        *((name, name) for name in TURNED),
    ],
)
def test_a_wrong_alignment_replaces_no_file(slide, tmp_path, muse, wrong, message):
    moved_um = float(wrong.removesuffix(" um")) if wrong.endswith(" um") else 0.0
    folder, output = (
        write_visium_hd(tmp_path / "binned_outputs", slide, depth=100, moved_um=moved_um),
        tmp_path / "a.h5ad",
    )
    if wrong in TURNED:
        turn(folder / "square_002um/spatial/tissue_positions.parquet", wrong)
    status, shown, printed = muse(f"bins {slide[0]} --visium-hd {folder} -o {output}")
    assert (status, printed.count("\n")) == (int(bool(message)), int(bool(message)))
    assert printed.startswith(f"muse bins: {folder}" if message else "") and message in printed
    assert shown.startswith(str(output))  # a first file is written
    assert "too few counts" not in shown
    output.write_text("an earlier file")
    status, shown, printed = muse(f"bins {slide[0]} --visium-hd {folder} -o {output}")
    assert status == int(bool(message))
    if message:
        assert (output.read_text(), shown) == ("an earlier file", "")
        assert f"{output} exists and was kept" in printed
    else:
        assert read_bins(output)[1] == GENES


OTHER_KINDS = [
    "Antibody Capture",
    "CRISPR Guide Capture",
    "Custom",
    "Negative Control Probe",
    "Deprecated Codeword",
]


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_features_of_other_types_are_no_genes(slide, tmp_path, muse, kind):
    types = ["Gene Expression", kind, "Gene Expression"]
    folder, output = (
        write_visium_hd(tmp_path / "binned_outputs", slide, types=types),
        tmp_path / "a.h5ad",
    )
    status, shown, printed = muse(f"bins {slide[0]} --visium-hd {folder} --expand-um 0 -o {output}")
    assert (status, printed) == (
        0,
        "",
    ) and "2 genes from bins of 2 um (left out: 1 feature of other kinds)" in shown
    counts, genes = read_bins(output)
    assert genes == ["CD3D", "VIM"]
    alone = are_alone(slide)
    np.testing.assert_array_equal(counts[alone], expected_counts(slide)[alone][:, [0, 2]])


@pytest.mark.parametrize(
    "names, expected",
    [
        (["TBCE", "TBCE", "VIM"], ["TBCE_E1", "TBCE_E2", "VIM"]),
        (["TBCE", "TBCE", "TBCE_E2"], ["TBCE_E1", "TBCE_E2", "TBCE_E2_2"]),
    ],
)
def test_genes_with_equal_names_are_told_apart_by_their_ids(slide, tmp_path, muse, names, expected):
    folder = write_visium_hd(tmp_path / "binned_outputs", slide, names=names)
    status, _, printed = muse(f"bins {slide[0]} --visium-hd {folder} -o {tmp_path / 'a.h5ad'}")
    assert status == 0 and "TBCE is the name of several genes, written as NAME_ID" in printed
    assert read_bins(tmp_path / "a.h5ad")[1] == expected


def test_bins_larger_than_nuclei_are_named(slide, tmp_path, muse):
    folder = write_visium_hd(tmp_path / "binned_outputs", slide, bin_um=8)
    status, shown, printed = muse(f"bins {slide[0]} --visium-hd {folder} -o {tmp_path / 'a.h5ad'}")
    assert status == 0 and "from bins of 8 um;" in shown
    assert f"{folder / 'square_008um'}: its bins of 8 um are larger than most nuclei" in printed


@pytest.mark.parametrize(
    "control",
    [
        {"feature_name": "antisense_PROKR2"},
        {"feature_name": "BLANK_0006"},
        {"feature_name": "DeprecatedCodeword_0321"},
        {"feature_name": b"NegControlCodeword_0500"},
        {"feature_name": "KRT8", "is_gene": False},
        {"feature_name": "KRT8", "codeword_category": "deprecated_codeword"},
        {"feature_name": "KRT8", "codeword_category": b"genomic_control_probe", "is_gene": True},
    ],
    ids=str,
)
def test_controls_of_xenium_are_no_genes(slide, tmp_path, muse, control):
    transcripts, matrix = write_xenium(tmp_path / "outs", slide)
    is_text = not any(isinstance(value, bytes) for value in control.values())
    genes = {"codeword_category": "custom_gene", "is_gene": True}
    table = pd.read_parquet(transcripts)
    table = pd.concat([table.assign(**genes), table.iloc[:500].assign(**{**genes, **control})])
    for name in ("feature_name", "codeword_category"):
        table[name] = table[name].map(
            lambda value: value if is_text or isinstance(value, bytes) else value.encode()
        )
    table.to_parquet(transcripts)
    output = tmp_path / "a.h5ad"
    words = f"--xenium {transcripts} --transform {matrix} --expand-um 0 -o {output}".split()
    muse.ok(f"bins {slide[0]}", *words)
    counts, found = read_bins(output)
    alone = are_alone(slide)
    assert found == GENES
    np.testing.assert_array_equal(counts[alone], expected_counts(slide)[alone])


@pytest.mark.parametrize(
    "case, message",
    [
        (
            "another folder",
            "is not a folder of Visium HD bins ([Errno 2] No such file or directory: ",
        ),
        ("another run", "has no position of bin 's_002um_00000-1'"),
        ("another slide", "positions lie outside the slide's tissue"),
        ("no transform", "give its alignment as --transform"),
    ],
)
def test_a_mistake_is_one_sentence(slide, tmp_path, muse, case, message):
    if case == "another folder":
        given = ["--visium-hd", tmp_path]
    elif case == "another run":
        barcodes = [f"other-{i}" for i in range(len(draw_spots(slide)[0]))]
        given = [
            "--visium-hd",
            write_visium_hd(tmp_path / "binned_outputs", slide, barcodes=barcodes),
        ]
    else:
        transcripts, matrix = write_xenium(tmp_path / "outs", slide)
        matrix.write_text(f"{slide[2] / 0.2125} 0 90000 0 {slide[2] / 0.2125} 90000 0 0 1")
        given = [
            "--xenium",
            transcripts,
            *(["--transform", matrix] if case == "another slide" else []),
        ]
    printed = muse.fails(f"bins {slide[0]}", *given, "-o", tmp_path / "bins.h5ad")
    assert message in printed
    assert not (tmp_path / "bins.h5ad").exists()


@pytest.mark.parametrize(
    "value, message",
    [
        (0, "scalefactors_json.json: microns_per_pixel is 0, not a positive number of um"),
        ("fine", "microns_per_pixel is 'fine', not a positive number"),
        (
            0.5,
            (
                "the tissue is 2 times as large as on the slide; correct the um per px of the slide"
                " (0.25) or of"
            ),
        ),
    ],
)
def test_the_scale_of_the_bins_is_checked(slide, tmp_path, muse, value, message):
    folder = write_visium_hd(tmp_path / "binned_outputs", slide)
    (folder / "square_002um/spatial/scalefactors_json.json").write_text(
        json.dumps({"microns_per_pixel": value})
    )
    assert message in muse.fails(
        f"bins {slide[0]} --visium-hd {folder} -o {tmp_path / 'bins.h5ad'}"
    )
    assert not (tmp_path / "bins.h5ad").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda table: table.assign(qv=np.nan),
            "has no counts, or all are of controls or below Q20",
        ),
        (
            lambda table: table.assign(x_location=np.nan),
            "a transcript has no x_location or y_location",
        ),
        (lambda table: table.assign(y_location="1"), "column y_location has "),
        (
            lambda table: table.assign(x_location=table["x_location"] - 5000),
            "lie outside the slide's tissue",
        ),
    ],
)
def test_a_table_of_transcripts_is_checked(slide, tmp_path, muse, change, message):
    transcripts, matrix = write_xenium(tmp_path / "outs", slide)
    change(pd.read_parquet(transcripts)).to_parquet(transcripts)
    words = f"--xenium {transcripts} --transform {matrix} -o {tmp_path / 'bins.h5ad'}".split()
    assert message in muse.fails(f"bins {slide[0]}", *words)
    assert not (tmp_path / "bins.h5ad").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("1.2,0,nan\n0,1.2,3\n0,0,1", "the matrix contains nan"),
        ("2.4,0,0\n0,2.4,0\n0,0,1", "the tissue is 2.04 times as large as on the slide"),
    ],
)
def test_an_alignment_is_checked(slide, tmp_path, muse, text, message):
    transcripts, matrix = write_xenium(tmp_path / "outs", slide)
    matrix.write_text(text)
    assert message in muse.fails(f"bins {slide[0]} --xenium {transcripts} --transform {matrix}")


def test_a_position_beside_a_nucleus_belongs_to_the_nearest_among_those_within_reach():
    """The positions inside and outside outlines alternate."""
    tree = shapely.STRtree(shapely.box([0, 20], 0, [10, 30], 10))
    xy = np.array([[12.0, 5], [25, 5], [17, 5], [5, 5], [60, 5], [32, 5]])
    spot, nucleus = _assign(tree, xy, reach=4)
    assert dict(zip(spot.tolist(), nucleus.tolist(), strict=True)) == {0: 0, 1: 1, 2: 1, 3: 0, 5: 1}
