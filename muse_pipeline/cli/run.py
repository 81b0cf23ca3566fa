"""Find the nuclei of slides or images: all steps in one command, without Snakemake.

    muse run slide.svs -o results  also several slides, folders of slides, and sheets (TSV, CSV)

Writes one folder per slide, with the same files and bytes as the workflow. Prints a line per slide;
the output of the steps is in OUT/<slide>/logs. Slides that are finished with the same settings are
skipped. If a slide fails, the others are still run, and the exit status is 2. Slides of earlier
runs into the same folder stay in its report.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.cli.signature import AtLeastOne, Location, RunOptions
from muse_pipeline.core.types import Written


def run(
    slides: Sequence[Location],
    output: Written,
    mpp: float | None = None,
    organ: str | None = None,
    stain: str | None = None,
    roi: Path | None = None,
    regions: str | None = None,
    options: RunOptions = None,
    config: Path | None = None,
    threads: AtLeastOne | None = None,
    no_report: bool = False,
) -> None:
    """Run the unfinished slides, and raise an error that lists failed ones.

    Args:
        slides: slides, images, URLs, folders or sheets
        output: folder of the results
        mpp: um per level-0 pixel, instead of the files'
        organ: organ of the slides, such as breast, mamma or BRCA
        stain: H&E, IHC (also a marker, such as Ki-67), or unknown: judged by the colours (default)
        roi: analyse only these areas, drawn in QuPath (GeoJSON)
        regions: add the tissue region of every nucleus, from the classes of the nuclei (`nuclei`),
            from a region model or from areas drawn in QuPath
        options: settings that are options
        config: file with these and further settings (config/README.md)
        threads: number of cores, which does not change results (default: all that this process may
            use)
        no_report: only run the slides, beside other runs into the same folder
    """
    from muse_pipeline.slides.inspect import start_inspector

    start_inspector(slides)  # before the imports, because pyarrow starts a thread
    from muse_pipeline.cli.run_slides import choose_rows, load_run, run_into_folder
    from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES

    is_drawn = regions and regions.lower().endswith(GEOJSON_SUFFIXES)
    drawn, regions = (Path(regions), None) if is_drawn else (None, regions)
    rows = choose_rows(slides, mpp, roi, drawn, {"organ": organ, "stain": stain})
    given = {**options, "output": str(output)}
    given |= {"regions": regions} if regions else {}
    run_into_folder(rows, *load_run(given, config, threads, no_report), no_report)
