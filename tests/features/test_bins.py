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
    nuclei = muse_pipeline.read_nuclei(folder / "nuclei.parquet")
    return folder, nuclei, info["mpp"][0], info["size_px"]


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
    folder,
    slide,
    *,
    prefix="",
    depth=1,
    moved_um=0.0,
    bin_um=2,
    names=GENES,
    types=None,
    scale=None,
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
        group["features/name"] = np.array(names, "S")
        group["features/id"] = np.array(["E1", "E2", "E3"], "S")
        if types:
            group["features/feature_type"] = np.array(types, "S")
    x, y = (xy_um / slide[2]).T
    table = {
        "barcode": np.char.add(prefix, spots),
        "pxl_row_in_fullres": y,
        "pxl_col_in_fullres": x,
    }
    pd.DataFrame(table).sample(frac=1, random_state=0).to_parquet(
        bins / "spatial/tissue_positions.parquet"
    )
    (bins / "spatial/scalefactors_json.json").write_text(
        json.dumps({"microns_per_pixel": slide[2] if scale is None else scale})
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


def require_counts(slide, path, of_genes=slice(None)):
    """Require the genes, and the counts of all nuclei whose outlines meet no other."""
    counts, genes = read_bins(path)
    assert genes == np.array(GENES)[of_genes].tolist()
    outlines = slide[1].geometry.to_numpy()
    alone = shapely.intersects(outlines[:, None], outlines[None]).sum(1) == 1
    assert alone.sum() > 20
    xy_um, expected = draw_spots(slide)
    inside = shapely.intersects(outlines[alone, None], shapely.points(xy_um / slide[2])[None])
    np.testing.assert_array_equal(counts[alone], (inside @ expected)[:, of_genes])


@pytest.fixture
def run(slide, tmp_path, muse):
    """A function that runs `muse bins`; it returns the status, stdout and stderr."""
    return lambda *given: muse(f"bins {slide[0]} -o {tmp_path / 'a.h5ad'}", *given)


@pytest.fixture
def visium(slide, tmp_path):
    """A function that draws bins, and returns the words that name them."""
    return lambda **how: ("--visium-hd", write_visium_hd(tmp_path / "bins", slide, **how))


@pytest.fixture
def xenium(slide, tmp_path):
    """The transcripts and their alignment."""
    return write_xenium(tmp_path / "outs", slide)


def words_of(transcripts, matrix):
    return "--xenium", transcripts, "--transform", matrix


def test_counts_of_each_nucleus_are_those_of_the_positions_in_it(
    slide, tmp_path, run, visium, xenium
):
    for given in (visium(), words_of(*xenium)):
        status, shown, printed = run(*given, "--expand-um", "0")
        assert (status, printed) == (0, "")
        require_counts(slide, tmp_path / "a.h5ad")
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


def test_too_few_counts_are_named(run, visium):
    status, shown, printed = run(*visium())
    assert (status, printed) == (0, "") and "too few counts to judge the alignment" in shown


BESIDE = "times the counts of positions displaced by 20 um"


@pytest.mark.parametrize(
    "moved_um, message", [(0, ""), (3, ""), (20, BESIDE), *((0, name) for name in TURNED)]
)
def test_a_wrong_alignment_replaces_no_file(tmp_path, run, visium, moved_um, message):
    given, output = visium(depth=100, moved_um=moved_um), tmp_path / "a.h5ad"
    if message in TURNED:
        turn(given[1] / "square_002um/spatial/tissue_positions.parquet", message)
    status, shown, printed = run(*given)
    assert status == printed.count("\n") == bool(message)
    assert printed.startswith(f"muse bins: {given[1]}" if message else "") and message in printed
    assert shown.startswith(str(output))  # a first file is written
    assert "too few counts" not in shown
    output.write_text("an earlier file")
    status, shown, printed = run(*given)
    assert status == bool(message)
    if message:
        assert (output.read_text(), shown) == ("an earlier file", "")
        assert f"{output} exists and was kept" in printed
    else:
        assert read_bins(output)[1] == GENES


def test_features_of_other_types_are_no_genes(slide, tmp_path, run, visium):
    types = ["Gene Expression", "Antibody Capture", "Gene Expression"]
    status, shown, printed = run(*visium(types=types), "--expand-um", "0")
    assert (status, printed) == (0, "")
    assert "2 genes from bins of 2 um (left out: 1 feature of other kinds)" in shown
    require_counts(slide, tmp_path / "a.h5ad", [0, 2])


@pytest.mark.parametrize(
    "names, expected",
    [
        (["TBCE", "TBCE", "VIM"], ["TBCE_E1", "TBCE_E2", "VIM"]),
        (["TBCE", "TBCE", "TBCE_E2"], ["TBCE_E1", "TBCE_E2", "TBCE_E2_2"]),
    ],
)
def test_genes_with_equal_names_are_told_apart_by_their_ids(tmp_path, run, visium, names, expected):
    status, _, printed = run(*visium(names=names))
    assert status == 0 and "TBCE is the name of several genes, written as NAME_ID" in printed
    assert read_bins(tmp_path / "a.h5ad")[1] == expected


def test_bins_larger_than_nuclei_are_named(run, visium):
    status, shown, printed = run(*visium(bin_um=8))
    assert status == 0 and "from bins of 8 um;" in shown
    assert "square_008um: its bins of 8 um are larger than most nuclei" in printed


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
def test_controls_of_xenium_are_no_genes(slide, tmp_path, run, xenium, control):
    is_text = not any(isinstance(value, bytes) for value in control.values())
    genes = {"codeword_category": "custom_gene", "is_gene": True}
    table = pd.read_parquet(xenium[0])
    table = pd.concat([table.assign(**genes), table.iloc[:500].assign(**{**genes, **control})])
    for name in ("feature_name", "codeword_category"):
        table[name] = table[name].map(
            lambda value: value if is_text or isinstance(value, bytes) else value.encode()
        )
    table.to_parquet(xenium[0])
    assert run(*words_of(*xenium), "--expand-um", "0")[0] == 0
    require_counts(slide, tmp_path / "a.h5ad")


def require_sentence(answer, message, folder):
    status, _, printed = answer
    assert status == 2 and message in printed
    assert not (folder / "a.h5ad").exists()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"prefix": "other-"}, "has no position of bin 's_002um_00000-1'"),
        ({"scale": 0}, "scalefactors_json.json: microns_per_pixel is 0, not a positive number"),
        ({"scale": "fine"}, "microns_per_pixel is 'fine', not a positive number"),
        ({"scale": 0.5}, "times as large as on the slide; correct the um per px of the slide"),
    ],
)
def test_bins_are_checked(tmp_path, run, visium, wrong, message):
    require_sentence(run(*visium(**wrong)), message, tmp_path)
    message = "is not a folder of Visium HD bins ([Errno 2] No such file or directory: "
    require_sentence(run("--visium-hd", tmp_path), message, tmp_path)


@pytest.mark.parametrize(
    "changed, matrix, message",
    [
        ({}, "1.2 0 90000 0 1.2 90000 0 0 1", "positions lie outside the slide's tissue"),
        ({}, "1.2,0,nan\n0,1.2,3\n0,0,1", "the matrix contains nan"),
        ({}, "2.4,0,0\n0,2.4,0\n0,0,1", "the tissue is 2.04 times as large as on the slide"),
        ({"qv": np.nan}, "", "has no counts, or all are of controls or below Q20"),
        ({"x_location": np.nan}, "", "a transcript has no x_location or y_location"),
        ({"y_location": "1"}, "", "column y_location has "),
    ],
)
def test_transcripts_and_their_alignment_are_checked(
    tmp_path, run, xenium, changed, matrix, message
):
    pd.read_parquet(xenium[0]).assign(**changed).to_parquet(xenium[0])
    if matrix:
        xenium[1].write_text(matrix)
    require_sentence(run(*words_of(*xenium)), message, tmp_path)
    require_sentence(run("--xenium", xenium[0]), "give its alignment as --transform", tmp_path)


def test_a_position_beside_a_nucleus_belongs_to_the_nearest_among_those_within_reach():
    """The positions inside and outside outlines alternate."""
    tree = shapely.STRtree(shapely.box([0, 20], 0, [10, 30], 10))
    xy = np.array([[12.0, 5], [25, 5], [17, 5], [5, 5], [60, 5], [32, 5]])
    spot, nucleus = _assign(tree, xy, reach=4)
    assert dict(zip(spot.tolist(), nucleus.tolist(), strict=True)) == {0: 0, 1: 1, 2: 1, 3: 0, 5: 1}
