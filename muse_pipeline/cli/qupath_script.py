"""Write two scripts for QuPath's menu: to find the nuclei of the open image, and to train on corrected regions.

Without --output, they are written for every QuPath version of this user. QuPath lists them in Automate > User scripts >
muse.
"""

import argparse
import sys
from pathlib import Path

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_output("FOLDER", "folder for the scripts of QuPath's menu", required=False)
    parser.add_path("--config", "YAML", "training config (default: my_labels.yaml)")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.cohort.study import find_workflow
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.qupath.scripts import find_script_folders, write_scripts

    config = args.config or find_workflow().parent / "config/train/my_labels.yaml"
    if not config.is_file():
        raise ConfigError(f"{config}: there is no such file; give the training settings with --config")
    muse = Path(sys.executable).with_name("muse.exe" if sys.platform == "win32" else "muse")
    folders = [args.output] if args.output else find_script_folders(Path.home())
    for folder in folders:
        for path in write_scripts(folder, muse, config.resolve()):
            print(path)
