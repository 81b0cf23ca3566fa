"""What a run prints: what it replaces, and a line for every slide that is done or has failed.

The rest is in files: what Snakemake reports of jobs in .snakemake/log, what the steps print in <results>/{slide}/logs.
`--printshellcmds` or `--verbose` prints what Snakemake reports as well.
"""

import logging
from collections import Counter, defaultdict

from snakemake.jobs import Job
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

PROGRESS_S = 60
ABOUT_JOBS = "Select jobs to execute", "Removing temporary output", "--keep-incomplete mode is set"


class TerminalFilter(logging.Filter):
    """Prints a line per slide in place of what Snakemake reports of its jobs; jobs of no slide are reported if they fail."""

    def __init__(self):
        self.job_of_id, self.jobs_of_slide = {}, defaultdict(list)
        self.n_left, self.ended = Counter(), set()
        self.has_shown_stats, self.printed_at = False, time.monotonic()
        self.shows = {
            **dict.fromkeys([LogEvent.WORKFLOW_STARTED, LogEvent.JOB_INFO, LogEvent.JOB_STARTED], lambda record: False),
            LogEvent.GROUP_INFO: lambda record: False,
            LogEvent.RUN_INFO: self.is_first_table,
            LogEvent.PROGRESS: lambda record: time.monotonic() - self.printed_at > PROGRESS_S,
            LogEvent.JOB_FINISHED: self.finish,
            LogEvent.JOB_ERROR: self.fail,
            LogEvent.GROUP_ERROR: self.fail_group,
            LogEvent.ERROR: lambda record: not (self.job_of_id and record.exception == "RuleException"),
        }

    def filter(self, record):
        """Whether Snakemake prints its own message."""
        shows = self.shows.get(getattr(record, "event", None))
        try:
            shown = shows(record) if shows else not str(record.msg).startswith(ABOUT_JOBS)
        except Exception:  # of another version of Snakemake: its own message is better than the end of the run
            shown = True
        self.printed_at = time.monotonic() if shown else self.printed_at
        return shown

    def start(self):
        """Find the jobs of every slide."""
        for job in slide_jobs():
            self.job_of_id[job.jobid] = job
            self.jobs_of_slide[job.wildcards.slide].append(job)
        self.n_left.update({slide: len(jobs) for slide, jobs in self.jobs_of_slide.items()})

    def is_first_table(self, record):
        """Whether a dry run has not yet shown its table of jobs, which it has twice."""
        was_shown, self.has_shown_stats = self.has_shown_stats, True
        return not was_shown

    def finish(self, record):
        """Print a slide's line after its last job."""
        if job := self.job_of_id.get(record.job_id):
            slide = job.wildcards.slide
            self.n_left[slide] -= 1
            if not self.n_left[slide]:
                self.print_slide(slide, what_was_found(self.jobs_of_slide[slide]))
        return False

    def fail(self, record):
        """Print why a job failed; a job in a group is reported with its group."""
        job = self.job_of_id.get(record.jobid)
        if job and not record.indent:
            self.print_failure([job], record.rule_msg)
        return not job

    def fail_group(self, record):
        """Print why the jobs of a group failed."""
        jobs = [job for info in record.job_error_info if (job := self.job_of_id.get(info["jobid"]))]
        if jobs:
            self.print_failure(jobs)
        return not jobs

    def print_failure(self, jobs, message=None):
        """Print the slide's line with the reason of the first of ``jobs`` that has noted one."""
        noted = [failure for job in jobs if (failure := outcome.find_failure(entries_of(job)))]
        step, reason = noted[0] if noted else (jobs[0].rule.name, message or outcome.NO_REASON)
        self.print_slide(jobs[0].wildcards.slide, f"{step} failed: {reason}")

    def print_slide(self, slide, text):
        """Print a slide's line, and how many slides have ended."""
        self.ended.add(slide)
        print(f"{slide}: {text} ({len(self.ended)} of {len(self.n_left)})", flush=True)
        self.printed_at = time.monotonic()


def slide_jobs():
    """The jobs of slides that the run will do."""
    jobs = filter(workflow.dag.needrun, workflow.dag.jobs)  # at the end of a dry run none is left to do
    return [job for job in jobs if not job.is_group() and "slide" in job.wildcards.keys()]


# The steps of jobs that run several; the ledger of another job is among its logs.
STEPS_OF_JOBS = {
    "image": ["inspect", "tissue", f"tile-{STORE}"],
    "nuclei": ["stitch", *dict.fromkeys(output.step for output in WRITTEN_WITH_NUCLEI if not output.by_stitch)],
}


def entries_of(job):
    """What the steps of a job noted of their ends."""
    folder = Path(PLAN.folder(job.wildcards.slide), "ledger")
    own = [ledger] if (ledger := getattr(job.log, "ledger", None)) else []
    steps = STEPS_OF_JOBS.get(job.rule.name, [])
    return outcome.read_entries([*(folder / f"{step}.json" for step in steps), *map(Path, own)])


def what_was_found(jobs):
    """The nuclei of a slide and the seconds that its jobs took."""
    if not {"nuclei", "overlay"} & {job.rule.name for job in jobs}:
        return f"{', '.join(sorted({job.rule.name for job in jobs}))} done"
    summary = Path(OUTPUT, jobs[0].wildcards.slide, "summary.json")
    found = outcome.describe_nuclei(json.loads(summary.read_text(encoding="utf-8")))
    return f"{found}, {sum(entry['seconds'] for job in jobs for entry in entries_of(job)):.1f} s"


def what_is_replaced():
    """Lines that name what the run changes of finished results; none if it replaces none."""
    again = defaultdict(list)
    for job in slide_jobs():
        again[job.wildcards.slide].append(job)
    again = {slide: jobs for slide, jobs in again.items() if "nuclei" in {job.rule.name for job in jobs}}
    replaced = [slide for slide in SLIDES if slide in again and has_results(slide)]
    return "\n".join(describe_changes({slide: list(CHANGES[slide]) or why_again(again[slide]) for slide in replaced}))


def why_again(jobs):
    """Why Snakemake runs jobs of a slide again whose settings are the same, in words."""
    reasons = [(job.rule.name, workflow.dag.reason(job)) for job in jobs]
    missing = [file for _, reason in reasons for file in reason.missing_output if not file.flags.get("temp")]
    newer = [file for _, reason in reasons for file in reason.updated_input]
    found = {f"{Path(file).name} is missing" for file in missing}
    found |= {f"{Path(file).name} is newer than the results made from it" for file in newer}
    found |= {f"other inputs or rule of {name}" for name, reason in reasons if reason.is_provenance_triggered()}
    return sorted(found) or ["made anew on demand, or with a model that is made anew"]


def has_results(slide):
    """Whether the nuclei of a slide are there from an earlier run."""
    return Path(OUTPUT, slide, "nuclei.provenance.json").is_file()


def print_what_is_replaced():
    """Print it, if anything is replaced."""
    if workflow.dag and (lines := what_is_replaced()):
        print(lines, flush=True)


def require_cores():
    """Reject `--jobs` on this machine, where it would replace the bound on cores and not be one."""
    if workflow.local_exec and workflow.resource_settings.nodes is not None:
        n = workflow.resource_settings.nodes
        sys.exit(f"--jobs {n}: does not limit the cores used on this machine; give `--cores {n}` instead")


TERMINAL = TerminalFilter()
if workflow.is_main_process and not (workflow.output_settings.printshellcmds or workflow.output_settings.verbose):
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.addFilter(TERMINAL)
            if workflow.output_settings.dryrun:  # nor are they composed: 28 s for 10,000 slides
                Job.log_info = lambda job, **_: None
if workflow.output_settings.dryrun:
    atexit.register(print_what_is_replaced)
