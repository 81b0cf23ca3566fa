"""Slides for which nothing is to be done, so that a run plans the jobs of the others alone.

Takes and gives <results>/logs/settled.json: for every slide that was complete when a run ended, a checksum of all that
Snakemake decides about its jobs by: the times of their files, the settings, the rules and the version of the package. A
slide with the same checksum has no jobs in the next run, and the files of all others are compared by Snakemake.
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
    """Whether a run of all steps is planned, and no slide waits for a job that is not its own."""
    asked, deployed = workflow.dag_settings, workflow.deployment_settings.deployment_method
    parts = asked.target_jobs or asked.until or asked.omit_from or asked.batch or asked.allowed_rules
    forced = asked.forcetargets or asked.forceall or asked.forcerun or workflow.touch
    others = TRAINING or REGION_RUN or PRETRAIN or DeploymentMethod.CONDA in deployed
    # Where jobs are only listed or drawn, there is no executor.
    is_run = workflow.is_main_process and workflow.executor_plugin and set(asked.targets) <= {"all"}
    return bool(is_run and not (parts or forced or others))


@cache
def describe_run():
    """What the jobs of every slide depend on."""
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
    """A checksum of what the jobs of a slide depend on but the times of files, as it was when this was first called."""
    proposed = state_of_files(files_of_proposer(SimpleNamespace(slide=slide))) if config["proposals"] else None
    text = json.dumps([describe_run(), ROWS[slide], PLAN.job_settings(slide), proposed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def times_of(path):
    """The times of a file by which Snakemake judges it; none where there is none."""
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
    """Kind and name of a file that a slide's job reads or makes: in its folder, in a column of its row, or another."""
    folder, columns = f"{PLAN.folder(slide)}/", [column for column, cell in ROWS[slide].items() if cell == path]
    if path.startswith(folder):
        return "own", path.removeprefix(folder)
    return ("cell", columns[0]) if columns else ("other", path)


def find_file(slide, kind, name):
    """The path of a file that `name_file` has named."""
    if kind == "own":
        return f"{PLAN.folder(slide)}/{name}"
    return ROWS[slide].get(name) or "" if kind == "cell" else name


def state_of(slide, files):
    """A checksum of all that Snakemake decides about a slide by."""
    times = [times_of(find_file(slide, kind, name)) for kind, name in files]
    return hashlib.sha256(repr([settings_of_jobs(slide), *times]).encode()).hexdigest()[:32]


def is_in_order(job):
    """Whether all that a job has made is there, and nothing that it reads is newer."""
    read = [time for file in job.input for time in times_of(file)]
    made = [times_of(file) for file in job.output]
    if not all(times or is_flagged(file, "temp") for times, file in zip(made, job.output)):
        return False
    return max(read, default=0) <= min((time for times in made for time in times), default=math.inf)


def read_settled():
    """Of every slide the files of its jobs and its checksum, as the last run left them."""
    try:
        kept = json.loads(SETTLED.read_text(encoding="utf-8"))
        return {slide: (kept["files"][number], state) for slide, (number, state) in kept["slides"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # of another version, or damaged
        return {}


@cache
def settled():
    """The slides for which nothing is to be done."""
    if not plans_whole_slides():
        return frozenset()
    if not workflow.dryrun:
        for slide in SLIDES:  # now, since files may be replaced while the run is under way
            settings_of_jobs(slide)
    found = read_settled().items()
    return frozenset(slide for slide, (files, state) in found if slide in ROWS and state == state_of(slide, files))


@cache
def unsettled():
    """The slides that the run plans jobs of, in the order of the sheet."""
    return [slide for slide in SLIDES if slide not in settled()]


def keep_settled():
    """Keep the checksum of every slide that is complete."""
    if not plans_whole_slides() or workflow.dryrun or not workflow.scheduler:  # which there is once the run is planned
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
    with suppress(OSError, OutputError):  # the next run then plans more than it has to
        SETTLED.unlink(missing_ok=True)
        settings.write_if_changed(SETTLED, text)


def keep_settled_at_exit(folder=os.getcwd()):
    """Keep the checksums in the folder of the run, which Snakemake has left by then (``--directory``)."""
    with chdir(folder):
        keep_settled()


atexit.register(keep_settled_at_exit)
