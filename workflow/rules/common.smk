"""Checks of the config and the sheet, and the plan of the run, before anything runs.

Reads the config, the sheet and the model; writes OUTPUT/run_config.yaml (the config with every default filled in),
OUTPUT/sheet.json (the sheet with absolute paths) and OUTPUT/model.json (the model, and the inputs of a training run),
each rewritten only if its content changes. OUTPUT is locked during a run.

The rules import only what plans a run from the package; steps are run through its command line.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

from muse_pipeline.cohort import settings
from muse_pipeline.cohort.layout import OF_COHORT, remove_cohort_files, store_name
from muse_pipeline.cohort.ledgers import failed_steps
from muse_pipeline.cohort.lock import find_other_run, lock_results
from muse_pipeline.cohort.records import Job, Records, describe_changes
from muse_pipeline.core.errors import MuseError, SheetError
from muse_pipeline.plan import Plan, option, state_of_files, without_patterns
from muse_pipeline.settings import complete_config, list_run_settings
from snakemake_logger_plugin_muse import Announced

COPIES = tempfile.TemporaryDirectory()  # of a dry run; it is removed when the process ends
# Jobs run the `muse` of this Snakemake's environment, even if that is not activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def checked(function, *arguments):
    """Call a function; an error of the package about a setting or a file ends the run with its message."""
    try:
        return function(*arguments)
    except MuseError as error:
        raise WorkflowError(str(error)) from None


def record(path, text):
    """Write an input of the run and return its path; a dry run writes a copy, to leave the record of the last run."""
    if not workflow.output_settings.dryrun or settings.read_text(path) in {None, text}:
        checked(settings.write_if_changed, path, text)
        return path
    copy = Path(COPIES.name, path.name)
    copy.write_text(text, encoding="utf-8")
    return copy


def lock_output():
    """Lock the output folder until this process ends; a dry run only checks that no run has different settings."""
    if not workflow.output_settings.dryrun:
        lock = lock_results(Path(OUTPUT), "snakemake")
        checked(lock.__enter__)
        return lock
    if (other := find_other_run(Path(OUTPUT))) and settings.read_text(Path(OUTPUT, "run_config.yaml")) != CONFIG_TEXT:
        raise WorkflowError(other)


def resolve(*command):
    """Run `muse COMMAND --resolved JSON` and return the JSON, because describing a training loads large libraries."""
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder, "resolved.json")
        check = subprocess.run(["muse", *command, "--resolved", resolved], capture_output=True, encoding="utf-8")
        if check.returncode:
            raise WorkflowError(check.stderr.strip())
        print(check.stderr, end="", file=sys.stderr)  # warnings
        return json.loads(resolved.read_text(encoding="utf-8"))


def resolve_model():
    """Describe a model that is trained, or that a device other than the processor runs; None for any other model."""
    if not TRAINING and config["provider"] == "cpu":
        return None
    # The checkpoint of a run that starts from a pretrained backbone does not exist yet.
    later = ["--set", "checkpoint=null"] if config["pretrain"] else []
    # The provider is checked only if jobs run on this machine; a login node cannot check the nodes of a cluster.
    here = ["--here"] if workflow.resource_settings.nodes is None else []
    how = [*settings.training_data(config), *later] if TRAINING else []
    return resolve("model", TRAINING or config["model"], "--provider", config["provider"], *here, *how)


def plan_run():
    """Plan the run, and write what its jobs read."""
    if config["proposals"]:
        chosen = dict(config["proposals"])
        resolve("proposer", chosen.pop("method"), "--settings", json.dumps(chosen))
    plan = checked(Plan.from_config, config, resolve_model())
    record(Path(OUTPUT, "run_config.yaml"), CONFIG_TEXT)
    sheet = record(SHEET, json.dumps(list(plan.rows.values()), indent=1, ensure_ascii=False))
    record(RESOLVED_MODEL, json.dumps(plan.model, indent=1, ensure_ascii=False))
    return plan, sheet


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


def batch_file(batch):
    """The rows of a batch of small slides."""
    return Path(OUTPUT, f"logs/batches/{batch}.json")


def batch_done(batch):
    """A file that exists once all slides of a batch are done."""
    return f"{OUTPUT}/logs/batches/{batch}.done"


def of_every_slide(*names, slides=None):
    """An input function that returns the files called ``names`` of every slide, or of ``slides``.

    Files of finished slides are marked, so that no jobs are planned for them; in place of the files of slides in batches,
    it returns those that exist once the batches are done.
    """

    def give(slide):
        if slide in BATCH_OF:
            return [batch_done(BATCH_OF[slide])]
        files = PLAN.files(*names, slides=[slide])
        return files if slide in OUTDATED else map(before_update, files)

    asked = SLIDES if slides is None else slides
    return lambda wildcards: list(dict.fromkeys(file for slide in asked for file in give(slide)))


def unfinished_files():
    """The files of unfinished slides that outdated jobs write; of a job that has written nothing, only the first."""
    for slide in (slide for slide in OUTDATED if slide not in BATCH_OF):
        for files in (PLAN.files(*job.kept, slides=[slide]) for job in OUTDATED[slide]):
            yield from files if files and os.path.exists(files[0]) else files[:1]


def as_outputs(outputs):
    """The files of outputs of a slide, as outputs of a rule."""
    paths = {name: f"<results>/{{slide}}/{name.rstrip('/')}" for name in PLAN.names(outputs)}
    return [directory(path) if name.endswith("/") else path for name, path in paths.items()]


def intermediate(path):
    """``path``, marked as temporary unless ``keep_stores`` is set."""
    return path if config["keep_stores"] else temp(path)


config.update(checked(complete_config, config))
OUTPUT = config["output"]
REGIONS_WELL = f"{OUTPUT}/logs/regions_well"
SHEET, RESOLVED_MODEL = Path(OUTPUT, "sheet.json"), Path(OUTPUT, "model.json")
CONFIG_TEXT = yaml.safe_dump(dict(config), allow_unicode=True)
MPP_OF_STORE = checked(settings.name_stores, [config["mpp"], *config["extra_mpps"]])
TRAINING, PRETRAIN = checked(settings.training_file, config), settings.pretraining_run(config)


pathvars:
    results=OUTPUT,


if workflow.is_main_process:
    LOCK = lock_output()
    PLAN, SHEET = plan_run()
else:  # a job on a cluster reads the files that the main process has written
    rows = json.loads(SHEET.read_text(encoding="utf-8"))
    model = json.loads(RESOLVED_MODEL.read_text(encoding="utf-8"))
    PLAN = Plan(config, {row["slide_id"]: row for row in rows}, model, PRETRAIN, bool(TRAINING))

MODEL, ROWS = PLAN.model, PLAN.rows
SLIDES, STORE = PLAN.slides, PLAN.store
OUTDATED = {}  # slide -> its jobs to run; finished slides are missing
FINISHED = []  # those slides in OUTDATED that have nuclei of an earlier run
BATCHES, BATCH_OF = {}, {}  # batch -> slides in OUTDATED that it runs, and the inverse
# In a dry run, an empty file in place of every request that would be written, and what stands for which request.
NEW_REQUEST = tempfile.NamedTemporaryFile() if workflow.output_settings.dryrun else None
NEW_REQUESTS = {}


# Any folder name is accepted here, because matching thousands of names takes minutes; the plan rejects unknown slides.
wildcard_constraints:
    slide="[^/]+",
    shard=r"\d+-of-\d+",
    batch=r"\d+-of-\d+",
