"""Find the nuclei of slides or images: all steps in one command, without Snakemake.

    muse run slide.svs -o results  also several slides, folders of slides, and sheets (TSV, CSV)

Writes one folder per slide, with the same files and bytes as the workflow. Prints a line per slide;
the output of the steps is in OUT/<slide>/logs. Slides that are finished with the same settings are
skipped. If a slide fails, the others are still run, and the exit status is 2. Slides of earlier
runs into the same folder stay in its report.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, at_least_one, path_or_url, positive
from muse_pipeline.settings import list_run_settings


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "slides",
        type=path_or_url,
        nargs="+",
        metavar="SLIDES",
        help="slides, images, URLs, folders or sheets",
    )
    parser.add_output("OUT", "folder of the results")
    parser.add_number("--mpp", positive, "UM", "um per level-0 pixel, instead of the files'")
    parser.add_specimen()
    parser.add_path("--roi", "GEOJSON", "analyse only these areas, drawn in QuPath")
    parser.add_argument(
        "--regions",
        metavar="nuclei|MODEL|GEOJSON",
        help=(
            "add the tissue region of every nucleus, from the classes of the nuclei (`nuclei`),"
            " from a region model or from areas drawn in QuPath"
        ),
    )
    parser.add_settings(list_run_settings())
    parser.add_path("--config", "YAML", "file with these and further settings (config/README.md)")
    parser.add_number(
        "--threads",
        at_least_one,
        "N",
        "number of cores, which does not change results (default: all that this process may use)",
    )
    parser.add_flag("--no-report", "only run the slides, beside other runs into the same folder")


def run(args: argparse.Namespace) -> None:
    """Run the unfinished slides, and raise an error that lists failed ones."""
    from muse_pipeline.slides.inspect import start_inspector

    start_inspector()  # before the imports, because pyarrow starts a thread
    from muse_pipeline.cli.run_slides import run_into_folder

    run_into_folder(args)
