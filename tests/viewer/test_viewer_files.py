import base64
import re
import shutil
import threading
import tracemalloc
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from finished_slide import CLASSES, GLASS, HOSTILE, draw_tissue, write_slide
from PIL import Image
from uneven_slide import draw_nuclei, read_slide, write_nuclei, write_uneven_slide

from muse_pipeline.cli.main import main
from muse_pipeline.nuclei.parquet import PROVENANCE_KEY, read_nuclei
from muse_pipeline.qupath.regions import ClassArea, write_class_areas
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.store import open_store
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.viewer.nuclei import ChunkWriter, iterate_batches
from muse_pipeline.viewer.page import TILE_PX, count_levels, find_pages, start_server, write_viewer


@pytest.fixture
def folder(finished, viewer, tmp_path):
    """A copy of a slide's folder with its viewer, which a test may change."""
    return shutil.copytree(finished, tmp_path / "one")


def read_chunks(viewer) -> np.ndarray:
    """The nuclei of all chunks, in the order of the table; positions are in um."""
    slide = read_slide(viewer)
    n_rays, side = slide["chunks"]["n_rays"], slide["chunks"]["side_um"]
    kind = [
        ("row", int),
        ("xy", float, 2),
        ("label", int),
        ("score", float),
        ("sureness", float),
        ("rays", float, n_rays),
    ]
    found = []
    for path in (viewer / "nuclei").iterdir():
        corner = np.array(path.stem.split("_"), float)
        name, scale, text = re.fullmatch(
            r'muse\.receive\("(.+)",(.+),"(.+)"\);\n', path.read_text()
        ).groups()
        assert name == f"nuclei/{path.stem}"
        content = base64.b64decode(text)
        n = len(content) // (11 + n_rays)
        nuclei = np.zeros(n, kind)
        position = np.frombuffer(content, "<u2", 2 * n, 4 * n).reshape(2, n).T
        label, score, sureness = np.frombuffer(content, np.uint8, 3 * n, 8 * n).reshape(3, n)
        nuclei["row"] = np.frombuffer(content, "<u4", n)
        nuclei["xy"] = (corner + (position + 0.5) / 65536) * side
        nuclei["label"], nuclei["score"], nuclei["sureness"] = label, score / 200, sureness / 255
        nuclei["rays"] = np.frombuffer(content, np.uint8, n * n_rays, 11 * n).reshape(
            n, n_rays
        ) * float(scale)
        found.append(nuclei)
    return np.sort(np.concatenate(found), order="row")


def test_chunks_hold_every_nucleus_as_the_table_has_it(finished, viewer):
    shown, nuclei, info = (
        read_chunks(viewer),
        read_nuclei(finished / "nuclei.parquet"),
        read_info(finished / "slide.json"),
    )
    assert (shown["row"] == np.arange(len(nuclei))).all()
    assert np.allclose(shown["xy"], nuclei.xy * info.mpp, atol=0.02)
    assert np.allclose(shown["rays"], nuclei.rays, atol=0.03)
    assert (shown["label"] == nuclei.label).all()
    assert np.allclose(shown["score"], nuclei.score, atol=1 / 200)
    assert np.allclose(shown["sureness"], nuclei.prob.max(1), atol=1 / 255)
    assert sum(n for *_, n in read_slide(viewer)["chunks"]["index"]) == len(nuclei)


def test_nuclei_of_many_squares_and_batches_are_sorted_by_square(finished, tmp_path):
    info = replace(read_info(finished / "slide.json"), size_px=(40_000, 30_000))
    batches = list(iterate_batches(finished / "nuclei.parquet", by_stain=False))
    writer = ChunkWriter(tmp_path / "nuclei", info, 32)
    for shift in (0, 9000, 0):
        for batch in batches:
            writer.add(replace(batch, xy=batch.xy + shift))
    index = {(column, row): n for column, row, n in writer.finish()["index"]}
    assert index == {(0, 0): 2 * len(batches[0].row), (2, 2): len(batches[0].row)}
    assert sorted(path.name for path in (tmp_path / "nuclei").iterdir()) == ["0_0.js", "2_2.js"]


def test_memory_does_not_grow_with_the_nuclei(finished, tmp_path):
    info = replace(read_info(finished / "slide.json"), size_px=(400_000, 400_000))
    (batch,) = iterate_batches(finished / "nuclei.parquet", by_stain=False)

    def peak(n_batches: int) -> int:
        writer = ChunkWriter(tmp_path / str(n_batches), info, 32)
        tracemalloc.start()
        for number in range(n_batches):
            writer.add(replace(batch, xy=batch.xy + 4096 * np.array([number % 20, number // 20])))
        writer.finish()
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    assert peak(200) < 1.2 * peak(20)


def test_the_overview_counts_every_nucleus(finished, viewer):
    overview, nuclei = read_slide(viewer)["overview"], read_nuclei(finished / "nuclei.parquet")
    bins = (np.floor(nuclei.score * 200 + 1e-4) // 10).astype(int).clip(0, 19)
    expected = np.zeros((len(CLASSES) + 1, 20), int)
    np.add.at(expected, (nuclei.label, bins), 1)
    assert overview["histogram"] == expected.tolist()
    cells, counts, sample = re.findall('"(.*?)"', (viewer / "overview.js").read_text())
    assert np.frombuffer(base64.b64decode(counts), np.uint8).sum() == len(nuclei)
    assert len(base64.b64decode(cells)) == 4 * overview["n_cells"]
    assert overview["n_sample"] == len(nuclei) == len(base64.b64decode(sample)) / 6


def test_the_gallery_has_the_surest_and_the_least_sure_of_a_class(finished, viewer):
    nuclei = read_nuclei(finished / "nuclei.parquet")
    for entry in read_slide(viewer)["gallery"]:
        own = np.flatnonzero(nuclei.label == entry["label"])
        sure = nuclei.prob.max(1)[own]
        rows = {row for row, *_ in entry["nuclei"]}
        assert len(rows) == 12
        assert rows <= set(own.tolist())
        if entry["kind"] != "random":
            best = own[np.argsort(sure if entry["kind"] == "least sure" else -sure)[:12]]
            assert rows == set(best.tolist())


def test_tiles_show_the_store(finished, viewer):
    store, image = open_store(finished / "image-500nm.zarr"), read_slide(viewer)["image"]
    assert image["size_px"] == list(store.size_px)
    assert image["tiles"] == [["0_0", "1_0"], ["0_0"]]
    for level, names in enumerate(image["tiles"]):
        for name in names:
            column, row = map(int, name.split("_"))
            with Image.open(viewer / f"tiles/{level}/{name}.jpg") as picture:
                shown = np.asarray(picture).astype(int)
            expected = store.at(store.mpp * 2**level).read(
                (column * TILE_PX, row * TILE_PX), shown.shape[1::-1]
            )
            expected[(expected == 255).all(-1)] = GLASS
            assert abs(shown - expected).mean() < 3
    assert np.allclose(image["glass"], GLASS, atol=1)


def test_what_was_not_stored_has_the_colour_of_the_glass(tmp_path):
    pixels, xy, label = draw_tissue((3072, 1024))
    pixels[(pixels == GLASS).all(-1)] = (236, 238, 240)
    pixels[:, :2000] = (236, 238, 240)  # no tissue, and so no chunks, on the left
    kept = xy[:, 0] > 2010
    viewer = write_viewer(
        write_slide(tmp_path, "one", (pixels, xy[kept], label[kept]), enlarged=1)
    ).parent
    image = read_slide(viewer)["image"]
    assert np.allclose(image["glass"], (236, 238, 240), atol=1)
    for level, names in enumerate(image["tiles"]):
        for name in names:
            with Image.open(viewer / f"tiles/{level}/{name}.jpg") as picture:
                assert not (np.asarray(picture) == 255).all(-1).any()


@pytest.mark.parametrize(
    "size_px, n_levels", [((1, 1), 1), ((1024, 700), 1), ((1025, 10), 2), ((4097, 1), 4)]
)
def test_levels_end_with_a_single_tile(size_px, n_levels):
    assert count_levels(size_px) == n_levels


def test_a_viewer_of_the_same_nuclei_is_kept_and_one_of_others_is_not(folder):
    page = folder / "viewer/index.html"
    before = page.stat().st_ino
    write_viewer(folder)
    shutil.rmtree(folder / "image-500nm.zarr")
    write_viewer(folder)
    assert page.stat().st_ino == before  # kept, with its pixels, although its store is missing
    nuclei = read_nuclei(folder / "nuclei.parquet")
    write_nuclei(folder, draw_nuclei(nuclei.xy[:7], nuclei.label[:7]))
    write_viewer(folder)
    slide = read_slide(folder / "viewer")
    assert (slide["n_nuclei"], slide["image"]) == (7, None)


def test_a_slide_without_nuclei_has_a_page(folder):
    write_nuclei(folder, draw_nuclei(np.zeros((0, 2)), np.zeros(0, int)))
    write_viewer(folder)
    slide = read_slide(folder / "viewer")
    assert (slide["n_nuclei"], slide["chunks"]["index"], slide["gallery"]) == (0, [], [])


def test_areas_are_layers(folder):
    info = read_info(folder / "slide.json")
    tissue = replace(TissueMask.load(folder / "tissue.npz"), roi=shapely.box(100, 100, 900, 700))
    tissue.save(folder / "tissue.npz")
    areas = [ClassArea("Tumour <b>", (200, 0, 10), shapely.box(200, 200, 600, 500))]
    for regions, names in ((areas, ["Region: Tumour <b>"]), ([], [])):
        shutil.rmtree(folder / "viewer")
        write_class_areas(folder / "regions.geojson", regions, info, "m")
        write_viewer(folder)
        layers = read_slide(folder / "viewer")["layers"]
        assert [layer["name"] for layer in layers] == ["Tissue", "Region of interest", *names]
    ring = np.reshape(layers[1]["rings"][0], (-1, 2))
    assert (ring.min(0).tolist(), ring.max(0).tolist()) == ([100, 100], [900, 700])


def test_immunohistochemistry_has_positive_and_negative_nuclei(tmp_path):
    pixels, xy, label = draw_tissue()
    folder = write_slide(tmp_path, "one", (pixels, xy, label), positive=label == 1)
    write_viewer(folder)
    slide = read_slide(folder / "viewer")
    assert [each["name"] for each in slide["classes"]] == ["Negative", "Positive"]
    assert np.sum(slide["overview"]["histogram"], 1).tolist() == [
        (label != 1).sum(),
        (label == 1).sum(),
        0,
    ]


def test_columns_of_others_do_not_matter(folder):
    path = folder / "nuclei.parquet"
    provenance = {PROVENANCE_KEY: pq.read_metadata(path).metadata[PROVENANCE_KEY]}
    table = pq.read_table(path).replace_schema_metadata(provenance)
    pq.write_table(
        table.append_column("shape_probability", pa.array(np.full(len(table), "x"))), path
    )
    write_viewer(folder)
    assert read_slide(folder / "viewer")["n_nuclei"] == len(table)


def test_a_hostile_name_stays_text(tmp_path):
    viewer = write_viewer(write_uneven_slide(tmp_path, HOSTILE)).parent
    assert read_slide(viewer)["slide_id"] == HOSTILE
    page = (viewer / "index.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert" not in page


def test_the_same_slide_gives_the_same_files(finished, viewer, folder):
    shutil.rmtree(folder / "viewer")
    write_viewer(folder, threads=1)
    names = sorted(path.relative_to(viewer) for path in viewer.rglob("*") if path.is_file())
    assert names == sorted(
        path.relative_to(folder / "viewer")
        for path in (folder / "viewer").rglob("*")
        if path.is_file()
    )
    assert all(
        (viewer / name).read_bytes() == (folder / "viewer" / name).read_bytes() for name in names
    )


def test_no_file_names_another_machine(viewer):
    own = [
        path
        for path in viewer.iterdir()
        if path.suffix in {".js", ".html", ".css"} and "openseadragon" not in path.name
    ]
    assert len(own) > 8
    assert not [
        path.name
        for path in own
        if re.search(r"https?:|\bfetch\(|XMLHttpRequest", path.read_text())
    ]


def test_overlay_leaves_the_viewer_out_when_asked(folder):
    shutil.rmtree(folder / "viewer")
    (config := folder / "config.yaml").write_text("viewer: false")
    assert main(["step", "overlay", str(folder), "--config", str(config)]) == 0
    config.unlink()
    assert not (folder / "viewer").exists()
    assert main(["step", "overlay", str(folder)]) == 0
    assert (folder / "viewer/index.html").is_file()


def test_the_server_answers_this_machine_alone(folder):
    assert find_pages(folder) == ["viewer/index.html"]
    assert find_pages(folder.parent) == ["one/viewer/index.html"]
    with start_server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/viewer/index.html"
        assert server.server_address[0] == "127.0.0.1"
        assert b"openseadragon" in urllib.request.urlopen(address).read()
        foreign = urllib.request.Request(address, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(foreign)
        server.shutdown()
