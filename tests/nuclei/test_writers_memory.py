import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from nuclei_example import CLASSES, MPP, PROVENANCE, draw_nuclei, slide_info
from muse_pipeline.nuclei.csv import write_csv
from muse_pipeline.nuclei.geojson import write_geojson
from muse_pipeline.nuclei.parquet import NucleiWriter
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import measure_shapes

folder, n = Path(sys.argv[2]), int(sys.argv[3])
with NucleiWriter(folder / "nuclei.parquet", CLASSES, PROVENANCE, n_rays=32) as writer:
    for seed in range(n // 20_000):
        nuclei = draw_nuclei(20_000, seed)
        rings = rays_to_rings(nuclei.xy, nuclei.rays, MPP)
        writer.write(nuclei, rings_to_polygons(rings)[0], measure_shapes(rings, MPP))
write_geojson(folder / "nuclei.parquet", slide_info(), folder / "nuclei.geojson.gz")
write_csv(folder / "nuclei.parquet", folder / "nuclei.csv.gz")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_ten_times_the_nuclei_need_the_same_memory(tmp_path):
    def measure(n):
        command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path), str(n)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert measure(800_000) < 1.2 * measure(80_000)
