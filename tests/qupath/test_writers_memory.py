import subprocess
import sys
from pathlib import Path

import pytest

START = """
import sys
from pathlib import Path
from muse_pipeline.core.environment import peak_memory_mib
sys.path.insert(0, sys.argv[1])
folder, n = Path(sys.argv[2]), int(sys.argv[3])
"""
END = """
print(peak_memory_mib())
"""
TABLE = """
from nuclei_example import CLASSES, MPP, draw_nuclei, drawn_provenance
from muse_pipeline.nuclei.parquet import NucleiWriter
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import measure_shapes
nuclei = draw_nuclei(20_000)
with NucleiWriter(folder / "nuclei.parquet", CLASSES, drawn_provenance(), n_rays=32) as writer:
    for _ in range(n // len(nuclei)):
        rings = rays_to_rings(nuclei.xy, nuclei.rays, MPP)
        writer.write(nuclei, rings_to_polygons(rings)[0], measure_shapes(rings, MPP))
"""
GEOJSON = """
from nuclei_example import slide_info
from muse_pipeline.qupath.write import write_geojson
write_geojson(folder / "nuclei.parquet", slide_info(), folder / "nuclei.geojson.gz", threads=2)
"""
CSV = """
from muse_pipeline.nuclei.parquet import write_csv
write_csv(folder / "nuclei.parquet", folder / "nuclei.csv.gz")
"""


@pytest.mark.slow
def test_ten_times_the_nuclei_need_the_same_memory(tmp_path):
    """As in the workflow, each step runs in a new process."""

    def measure(program, n):
        command = [
            sys.executable,
            "-c",
            START + program + END,
            str(Path(__file__).parents[1] / "support"),
            str(tmp_path),
            str(n),
        ]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    peaks = [[measure(program, n) for program in (TABLE, GEOJSON, CSV)] for n in (80_000, 800_000)]
    assert all(large < 1.2 * small for small, large in zip(*peaks, strict=True)), peaks
