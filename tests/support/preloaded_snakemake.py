"""Import the modules that every plan of the workflow needs, so that forks of this process already
have them.
"""

import jsonschema  # noqa: F401
import smart_open  # noqa: F401
import snakemake.profiles
import snakemake.report.html_reporter  # noqa: F401
from snakemake.cli import get_argument_parser

import muse_pipeline.cohort.lock
import muse_pipeline.cohort.settings
import muse_pipeline.core.provenance
import muse_pipeline.workflow  # noqa: F401

get_argument_parser()  # loads all of Snakemake's plugins, which takes longer than the other imports
