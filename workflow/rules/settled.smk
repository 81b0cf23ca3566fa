"""Slides that are complete, for which no jobs are planned.

Reads and writes <results>/logs/settled.json, which has a checksum for every slide that was complete when a run ended. It
covers everything that decides whether Snakemake runs the slide's jobs: the times of files, the settings, the rules and
the version of the package. If the checksum is the same in the next run, the slide is settled, and no job is planned.
"""

import hashlib
import math
import stat
from contextlib import chdir, suppress
from functools import cache
from importlib.metadata import version
from types import SimpleNamespace

from snakemake.io import is_flagged
from snakemake.settings.types import DeploymentMethod

SETTLED = Path(OUTPUT, "logs/settled.json")


@cache
def plans_whole_slides():
    """True if all steps are planned, and every slide depends only on its own jobs."""
    asked, deployed = workflow.dag_settings, workflow.deployment_settings.deployment_method
    parts = asked.target_jobs or asked.until or asked.omit_from or asked.batch or asked.allowed_rules
    forced = asked.forcetargets or asked.forceall or asked.forcerun or workflow.touch
    others = TRAINING or REGION_RUN or PRETRAIN or DeploymentMethod.CONDA in deployed
    # There is no executor if jobs are only listed or their graph is printed.
    is_run = workflow.is_main_process and workflow.executor_plugin and set(asked.targets) <= {"all"}
    return bool(is_run and not (parts or forced or others))


@cache
def describe_run():
    """The settings, rules and versions on which the jobs of every slide depend."""
    rules = [(rule.name, rule.shellcmd, sorted(map(str, rule.output))) for rule in workflow.rules]
    triggers, deployed = workflow.dag_settings.rerun_triggers, workflow.deployment_settings.deployment_method
    options = [sorted(map(str, each)) for each in (triggers, deployed)]
    return [
        version("muse-pipeline"),
        {**config, "slides": None},
        MODEL,
        rules,
        options,
        os.environ.get("MUSE_CONTAINER"),
    ]


@cache
def settings_of_jobs(slide):
    """A checksum of everything except files that the jobs of a slide depend on, as it was at the first call."""
    proposed = state_of_files(proposer_inputs(SimpleNamespace(slide=slide))) if config["proposals"] else None
    text = json.dumps([describe_run(), ROWS[slide], PLAN.job_settings(slide), proposed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def times_of(path):
    """The modification times that Snakemake compares for a file; an empty list if the file is missing."""
    try:
        found = os.lstat(path)
        times = [found.st_mtime_ns]
        if stat.S_ISLNK(found.st_mode):
            found = os.stat(path)
            times.append(found.st_mtime_ns)
    except OSError:
        return []
    if stat.S_ISDIR(found.st_mode):
        with suppress(FileNotFoundError):
            times = [os.stat(f"{path}/.snakemake_timestamp").st_mtime_ns]
    return times


def name_file(slide, path):
    """Kind and name of a file of a slide's jobs.

    They are "own" and the path within the slide's folder, "cell" and the column of the sheet with the path, or "other"
    and the path. Most slides thus have the same list of files, which is recorded only once.
    """
    folder, columns = f"{PLAN.folder(slide)}/", [column for column, cell in ROWS[slide].items() if cell == path]
    if path.startswith(folder):
        return "own", path.removeprefix(folder)
    return ("cell", columns[0]) if columns else ("other", path)


def find_file(slide, kind, name):
    """The path of a file, the inverse of `name_file`."""
    if kind == "own":
        return f"{PLAN.folder(slide)}/{name}"
    return ROWS[slide].get(name) or "" if kind == "cell" else name


def state_of(slide, files):
    """A checksum of everything that decides whether Snakemake runs a slide's jobs."""
    times = [times_of(find_file(slide, kind, name)) for kind, name in files]
    return hashlib.sha256(repr([settings_of_jobs(slide), *times]).encode()).hexdigest()[:32]


def is_in_order(job):
    """True if all outputs of a job exist and none of its inputs is newer."""
    read = [time for file in job.input for time in times_of(file)]
    made = [times_of(file) for file in job.output]
    if not all(times or is_flagged(file, "temp") for times, file in zip(made, job.output)):
        return False
    return max(read, default=0) <= min((time for times in made for time in times), default=math.inf)


def read_settled():
    """The files and the checksum of every slide in settled.json."""
    try:
        kept = json.loads(SETTLED.read_text(encoding="utf-8"))
        return {slide: (kept["files"][number], state) for slide, (number, state) in kept["slides"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # missing, damaged or from another version
        return {}


@cache
def settled():
    """The slides for which no jobs are needed."""
    if not plans_whole_slides():
        return frozenset()
    if not workflow.dryrun:
        for slide in SLIDES:  # now, because files may be replaced during the run
            settings_of_jobs(slide)
    found = read_settled().items()
    return frozenset(slide for slide, (files, state) in found if slide in ROWS and state == state_of(slide, files))


@cache
def unsettled():
    """The slides for which jobs are planned, in the order of the sheet."""
    return [slide for slide in SLIDES if slide not in settled()]


def write_settled():
    """Record the checksum of every complete slide."""
    if not plans_whole_slides() or workflow.dryrun or not workflow.scheduler:  # no jobs were planned
        return
    jobs_of_slide = defaultdict(list)
    for job in workflow.dag.jobs:
        if "slide" in job.wildcards.keys():
            jobs_of_slide[job.wildcards.slide].append(job)
    left = {job.wildcards.get("slide") for job in workflow.dag.needrun_jobs() if not job.is_group()}
    kept = {slide: found for slide, found in read_settled().items() if slide not in jobs_of_slide}
    for slide, jobs in jobs_of_slide.items():
        if slide not in left and all(map(is_in_order, jobs)):
            files = sorted({name_file(slide, str(file)) for job in jobs for file in (*job.input, *job.output)})
            kept[slide] = files, state_of(slide, files)
    lists = {}
    slides = {slide: (lists.setdefault(json.dumps(files), len(lists)), state) for slide, (files, state) in kept.items()}
    text = json.dumps({"files": list(map(json.loads, lists)), "slides": slides}, ensure_ascii=False)
    with suppress(OSError, OutputError):  # without the record, the next run plans all slides
        SETTLED.unlink(missing_ok=True)
        settings.write_if_changed(SETTLED, text)


def write_settled_at_exit(folder=os.getcwd()):
    """Call ``write_settled`` in the folder of the run, because Snakemake leaves it before it ends (``--directory``)."""
    with chdir(folder):
        write_settled()


atexit.register(write_settled_at_exit)
