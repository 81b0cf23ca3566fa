"""Checks of the config and the sheet before anything runs.

Reads the config, the sheet and the model; writes OUTPUT/run_config.yaml (the config with every default filled in),
OUTPUT/sheet.json (the sheet with absolute paths) and OUTPUT/model.json (the model, and the inputs of a training run),
each rewritten only if its content changes. OUTPUT is locked during a run. An error ends the run by sys.exit, with a
one-sentence message, because Snakemake would add lines of this file to an exception.

The rules read config and sheet through muse_pipeline.cohort, settings and outputs, which have tests. They import nothing
else from the package; steps are run through its command line.
"""

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from muse_pipeline.cohort import settings
from muse_pipeline.cohort.layout import OF_COHORT, remove_cohort_files, store_name
from muse_pipeline.cohort.ledgers import failed_steps
from muse_pipeline.cohort.lock import find_other_run, lock_results
from muse_pipeline.cohort.records import Job, Records, describe_changes
from muse_pipeline.core.errors import ConfigError, GeoJSONError, OutputError, SheetError
from muse_pipeline.core.setting import schema_of
from muse_pipeline.outputs.geojson import require_measurements
from muse_pipeline.plan import Plan, option, state_of_files, without_patterns
from muse_pipeline.settings import complete, list_settings, require_available

# Jobs run the `muse` of this Snakemake's environment, even if that is not activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def or_exit(function, *arguments):
    """Call a function; if it raises an error about a setting or a file, end the run with its message."""
    try:
        return function(*arguments)
    except (ConfigError, GeoJSONError, OutputError) as error:
        sys.exit(str(error))


def record(path, text):
    """Write an input of the run and return its path; a dry run writes a copy, to leave the record of the last run."""
    if not workflow.output_settings.dryrun or settings.read_text(path) in {None, text}:
        or_exit(settings.write_if_changed, path, text)
        return path
    copy = Path(tempfile.mkdtemp(), path.name)
    atexit.register(shutil.rmtree, copy.parent)
    copy.write_text(text, encoding="utf-8")
    return copy


def lock_output():
    """Lock the output folder until this process ends; a dry run only checks that no run has different settings."""
    if not workflow.output_settings.dryrun:
        lock = lock_results(Path(OUTPUT), "snakemake")
        or_exit(lock.__enter__)
        return lock
    if (other := find_other_run(Path(OUTPUT))) and settings.read_text(Path(OUTPUT, "run_config.yaml")) != CONFIG_TEXT:
        sys.exit(other)


def print_last(text):
    """Print ``text`` after all output of Snakemake, where users look first."""
    atexit.register(print, text, flush=True)


def lines_of(log):
    """The lines of a log; an empty list if the file is missing."""
    return log.read_text(encoding="utf-8").rstrip().splitlines() if log.is_file() else []


def resolve(*command):
    """Run `muse COMMAND --resolved JSON` and return the JSON; if the command fails, end the run with its message."""
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder, "resolved.json")
        check = subprocess.run(["muse", *command, "--resolved", resolved], capture_output=True, encoding="utf-8")
        if check.returncode:
            sys.exit(check.stderr.strip())
        print(check.stderr, end="", file=sys.stderr)  # warnings
        return json.loads(resolved.read_text(encoding="utf-8"))


def resolve_model():
    """The description of the model; end the run if the model does not fit the config."""
    # The checkpoint of a run that starts from a pretrained backbone does not exist yet.
    later = ["--set", "checkpoint=null"] if config["pretrain"] else []
    # The provider is checked only if jobs run on this machine; a login node cannot check the nodes of a cluster.
    here = ["--here"] if workflow.resource_settings.nodes is None else []
    how = [*settings.training_data(config), *later] if TRAINING else []
    model = resolve("model", TRAINING or config["model"], "--provider", config["provider"], *here, *how)
    or_exit(settings.require_fitting_model, config, model)
    or_exit(require_measurements, config["measurements"], config["features"], model["classes"], config["cells"])
    return model


def check_config():
    """Fill in the defaults of the config; end the run with a one-sentence message if a setting is invalid."""
    typed = dict(entry.split("=", 1) for entry in workflow.config_settings.config_args or ())
    try:
        with tempfile.TemporaryDirectory() as folder:  # installed packages may add outputs with settings
            schema = Path(folder, "config.schema.json")
            schema.write_text(json.dumps(schema_of(list_settings().values())), encoding="utf-8")
            validate(config, str(schema))
    except WorkflowError as error:
        sys.exit(settings.explain_schema_error(error.__context__, typed))
    or_exit(settings.require_as_typed, config, typed)
    config.update(or_exit(complete, config))
    or_exit(settings.require_plain_output, config)
    if workflow.is_main_process:
        or_exit(require_available, config)
    if config["statistics"] and workflow.is_main_process:
        or_exit(settings.require_columns, config)
    if config["proposals"] and workflow.is_main_process:
        chosen = dict(config["proposals"])
        resolve("proposer", chosen.pop("method"), "--settings", json.dumps(chosen))


def of_slide(method, *arguments):
    """An input or params function that calls a method of the plan with the slide of the job."""

    def give(wildcards):
        try:
            return method(wildcards.slide, *arguments)
        except SheetError as error:
            raise WorkflowError(str(error)) from None

    return give


def requested(name):
    """An input function that returns the request of a slide's job: a file that is newer than results to be replaced."""

    def give(wildcards):
        job = name.format(**wildcards)
        return NEW_REQUESTS.get((wildcards.slide, job)) or f"{PLAN.folder(wildcards.slide)}/logs/requests/{job}.json"

    return give


def write_requests(records):
    """Write the requests that a run changes; in a dry run, return the paths of files in their place, keyed by job."""
    if not workflow.output_settings.dryrun:
        records.write_requests()
        return {}
    found = {
        job.name: (records.request(job), records.find_request(job) or Path(NEW_REQUEST.name)) for job in records.jobs
    }
    return {name: str(path) for name, (request, path) in found.items() if path != request}


def request_of_cohort(job, folder=None):
    """The request of a job that is not of a single slide and writes to ``folder``."""
    records = Records(Path(folder or OUTPUT), [job])
    new = write_requests(records) if workflow.is_main_process else {}
    return new.get(job.name) or str(records.request(job))


def of_every_slide(*names, slides=None):
    """An input function that returns the files called ``names`` of every slide, or of ``slides``.

    Files of finished slides are marked, so that no jobs are planned for them.
    """

    def give(wildcards):
        for slide in SLIDES if slides is None else slides:
            yield from (
                PLAN.files(*names, slides=[slide])
                if slide in OUTDATED
                else map(before_update, PLAN.files(*names, slides=[slide]))
            )

    return lambda wildcards: list(give(wildcards))


def unfinished_files(wildcards):
    """The files of unfinished slides that outdated jobs write; of a job that has written nothing, only the first."""
    for slide, jobs in OUTDATED.items():
        for files in (PLAN.files(*job.kept, slides=[slide]) for job in jobs):
            yield from files if files and os.path.exists(files[0]) else files[:1]


def as_outputs(outputs):
    """The files of outputs of a slide, as outputs of a rule."""
    paths = {name: f"<results>/{{slide}}/{name.rstrip('/')}" for name in PLAN.names(outputs)}
    return [directory(path) if name.endswith("/") else path for name, path in paths.items()]


def intermediate(path):
    """``path``, marked as temporary unless ``keep_stores`` is set."""
    return path if config["keep_stores"] else temp(path)


check_config()
OUTPUT = config["output"]
REGIONS_WELL = f"{OUTPUT}/logs/regions_well"
CONFIG_TEXT = yaml.safe_dump(dict(config), allow_unicode=True)
LOCK = lock_output() if workflow.is_main_process else None
MPP_OF_STORE = or_exit(settings.name_stores, [config["mpp"], *config["extra_mpps"]])


pathvars:
    results=OUTPUT,


SHEET, RESOLVED_MODEL = Path(OUTPUT, "sheet.json"), Path(OUTPUT, "model.json")
TRAINING = or_exit(settings.training_file, config)
PRETRAIN = {"run": config["pretrain"]} if isinstance(config["pretrain"], str) else dict(config["pretrain"] or {})
if workflow.is_main_process:  # jobs read the files that the main process has written
    record(Path(OUTPUT, "run_config.yaml"), CONFIG_TEXT)
    rows = [
        {**each, "shards": each.get("shards") or config["shards"]}
        for each in resolve("sheet", "--check", config["slides"])
    ]
    SHEET = record(SHEET, json.dumps(rows, indent=1, ensure_ascii=False))
    RESOLVED_MODEL = record(RESOLVED_MODEL, json.dumps(resolve_model(), indent=1, ensure_ascii=False))

MODEL = json.loads(RESOLVED_MODEL.read_text(encoding="utf-8"))
ROWS = {each["slide_id"]: each for each in json.loads(SHEET.read_text(encoding="utf-8"))}
PLAN = Plan(config, ROWS, MODEL, PRETRAIN, bool(TRAINING))
SLIDES, STORE = PLAN.slides, PLAN.store
REPLACED = {}  # slide -> phrases for what has changed since its results were made
OUTDATED = {}  # slide -> its jobs to run; finished slides are missing
# In a dry run, an empty file in place of every request that would be written, and what stands for which request.
NEW_REQUEST = tempfile.NamedTemporaryFile() if workflow.output_settings.dryrun else None
NEW_REQUESTS = {}


# Any folder name is accepted here, because matching thousands of names takes minutes; the plan rejects unknown slides.
wildcard_constraints:
    slide="[^/]+",
    shard=r"\d+-of-\d+",
