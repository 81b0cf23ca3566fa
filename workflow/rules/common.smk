"""Checks of the config and the sheet, and the plan of the run, before anything runs.

Reads the config, the sheet and the model; writes OUTPUT/run_config.yaml (with all defaults), OUTPUT/sheet.json (with absolute
paths) and OUTPUT/model.json (with the inputs of a training run), each only if its content changes. OUTPUT is locked during a run.

The settings of a job are written to <results>/{slide}/logs/requests before it runs. This request is an input of its rule, so that
the job runs again if its settings change. From the package, the rules import only what plans a run.
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
from snakemake.utils import validate

from muse_pipeline.cohort import settings
from muse_pipeline.cohort.layout import OF_COHORT, remove_cohort_files, store_name
from muse_pipeline.cohort.ledgers import failed_steps
from muse_pipeline.cohort.lock import find_other_run, lock_results
from muse_pipeline.cohort.records import Job
from muse_pipeline.core.errors import MuseError
from muse_pipeline.plan import state_of_files, without_patterns
from muse_pipeline.settings import complete_config
from muse_pipeline.workflow import Unfinished, WorkflowPlan, only_reads, option
from snakemake_logger_plugin_muse import plan_file

# If no job is executed, an empty file that stands for every file that a run would write.
IS_READ = workflow.output_settings.dryrun or only_reads(sys.argv)
PLACEHOLDER = tempfile.NamedTemporaryFile() if IS_READ else None
# Jobs run the `muse` of this Snakemake's environment, even if that is not activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", "")]))


def checked(function, *arguments):
    """Call a function; an error of the package about a setting or a file ends the run with its message."""
    try:
        return function(*arguments)
    except MuseError as error:
        raise WorkflowError(str(error)) from None


def record(path, content):
    """Write an input of the run, text or JSON; return its path, or without a run that of a new file if it would change."""
    is_text = isinstance(content, str)
    text = content if is_text else json.dumps(content, indent=1, ensure_ascii=False)
    if PLACEHOLDER:
        return path if settings.read_text(path) == text else Path(PLACEHOLDER.name)
    checked(settings.write_if_changed, path, text)
    return path


def planned(path, plan):
    """The result of ``plan``, which the main process records in a JSON file for the processes of jobs."""
    if not workflow.is_main_process:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    result = plan()
    record(Path(path), result)
    return result


def resolve(*command):
    """Run `muse step COMMAND --resolved JSON` and return the JSON, because describing a training loads large libraries."""
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder, "resolved.json")
        check = subprocess.run(
            ["muse", "step", *command, "--resolved", resolved],
            capture_output=True,
            encoding="utf-8",
        )
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
    return resolve(
        "model", TRAINING or config["model"], "--provider", config["provider"], *here, *how
    )


def plan_run():
    """Plan the run, and write the sheet and the model, which jobs read; return the plan and the path of the sheet."""
    if not workflow.is_main_process:
        return WorkflowPlan.from_records(config), SHEET
    if config["proposals"]:
        resolve("proposer", *PROPOSER)
    plan = checked(WorkflowPlan.from_config, config, resolve_model())
    slides = list(plan.rows.values())
    validate({"slides": slides}, "../schemas/slides.schema.yaml", set_default=False)
    record(CONFIG, CONFIG_TEXT)
    record(RESOLVED_MODEL, plan.model)
    return plan, record(SHEET, slides)


def requested(job):
    """An input function that returns the request of a slide's job."""
    return lambda wildcards: TODO.request(wildcards.slide, job.format(**wildcards))


def of_every_slide(*names, slides=None):
    """An input function that returns the files called ``names`` of every slide, or of ``slides``."""
    return lambda wildcards: TODO.inputs(names, SLIDES if slides is None else slides, before_update)


def file_of_output(name):
    """A file or folder of an output of a slide; Snakemake's own report shows the pictures."""
    path = f"<results>/{{slide}}/{name}"
    if name.endswith("/"):
        return directory(path.rstrip("/"))
    shown = {"category": "Slides", "subcategory": "{slide}"}
    return report(path, **shown) if name.endswith(".png") else path


def intermediate(path):
    """``path``, marked as temporary unless ``keep_stores`` is set."""
    return path if config["keep_stores"] else temp(path)


def by_attempt(amount):
    """A resource that grows with every retry of a job."""
    return lambda wildcards, attempt: amount * attempt


def training_devices(wildcards, resources):
    """Options for the GPUs that the profile assigns to a training; without any, the training chooses the device."""
    n_gpus = int(resources.get("gpu", 0))
    return ["--accelerator", "cuda", "--devices", n_gpus] if n_gpus else []


def model_file(wildcards):
    """The file of the model; none for a built-in model, which is found by its name."""
    if TRAINING:
        return f"{OUTPUT}/training/{RUN}/model.onnx"
    return MODEL["file"] or []


def model_options(wildcards, input):
    """The model and what runs it, both resolved once for all jobs, as options of a command."""
    return ["--model", input.model or MODEL["model"], "--provider", MODEL["provider"]]


config.update(checked(complete_config, config))
OUTPUT = config["output"]
CONFIG, SHEET, RESOLVED_MODEL = (
    Path(OUTPUT, name) for name in ("run_config.yaml", "sheet.json", "model.json")
)
CONFIG_TEXT = yaml.safe_dump(dict(config), allow_unicode=True)
TRAINING = checked(settings.training_file, config)
PROPOSALS = dict(config["proposals"] or {})
PROPOSER = [PROPOSALS.pop("method", ""), "--settings", json.dumps(PROPOSALS, sort_keys=True)]
if PLACEHOLDER:  # a run with the same settings may be under way
    other = find_other_run(Path(OUTPUT))
    if other and settings.read_text(CONFIG) != CONFIG_TEXT:
        raise WorkflowError(other)
elif workflow.is_main_process:
    LOCK = lock_results(Path(OUTPUT), "snakemake")  # until this process ends
    checked(LOCK.__enter__)
PLAN, SHEET = plan_run()
MODEL, ROWS, SLIDES, STORE = PLAN.model, PLAN.rows, PLAN.slides, PLAN.store


pathvars:
    results=OUTPUT,


# Any folder name is accepted here, because matching thousands of names takes minutes; the plan rejects unknown slides.
wildcard_constraints:
    slide="[^/]+",
    shard=r"\d+-of-\d+",
    batch=r"\d+-of-\d+",


def plan_pretraining():
    """Write the run's config with its slides, and return its plan."""
    file, *options = checked(settings.pretraining_options, config, MODEL)
    run = settings.slug(Path(file).stem)
    folders = "--results", OUTPUT, "--output", f"{OUTPUT}/pretraining/{run}/cohort.yaml"
    plan = resolve("pretrain-config", file, "--sheet", config["slides"], *folders, *options)
    return checked(settings.complete_pretraining, config, {**plan, "run": run}, MODEL)


def plan_region_training():
    """The description of the training run; its sheet and results are by default those of this run."""
    changes = checked(settings.slides_of_region_run, config)
    model = resolve("model", REGION_RUN, *changes)
    checked(settings.require_region_model, model)
    return {**model, "changes": changes}


def request_of_cohort(name, values, *files):
    """The request of a job that writes ``files`` of the cohort."""
    return TODO.request_of_cohort(Job(name, values, writes=files), OUTPUT)


def remove_old_cohort_files():
    """Remove files of the cohort that are not requested, or older than the nuclei that they are made from."""
    unrequested = () if config["anndata"] else OF_COHORT[:1]
    unrequested += () if config["statistics"] else OF_COHORT[1:]
    remove_cohort_files(Path(OUTPUT), TODO.with_nuclei, unrequested)


def report_failures():
    """Write the report of a run with failures, and remove results that failed slides should have replaced."""
    Path(ALL_WELL).unlink(missing_ok=True)
    training = Path(OUTPUT, "training", RUN or "")
    lacks_model = TRAINING and not (training / "model.onnx").exists()
    why = ["--no-model", f"the model was not made; see {training}/logs"] if lacks_model else []
    with open(REPORT_LOG, "w", encoding="utf-8") as log:
        subprocess.run([*REPORT_COMMAND, *why], stdout=log, stderr=subprocess.STDOUT)
        waits = [slide for slide in PRETRAIN_SLIDES if failed_steps(Path(PLAN.folder(slide)))]
        if waits and not Path(PRETRAINED[0]).exists():
            log.write(
                f"pretraining waits for {', '.join(waits)}: fix these slides or list them in `pretrain.exclude`"
            )
    for slide in TODO.outdated:
        PLAN.records(slide).withdraw_failed()
