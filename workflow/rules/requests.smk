"""Which slides are not finished, and the requests of their jobs.

Reads and writes <results>/{slide}/logs/requests (muse_pipeline/cohort/records.py): a request has the settings of a job,
and is an input of the job's rule. Snakemake plans jobs only for slides with jobs that are not current.
"""

# A run that trains a model plans all slides, because results depend on files that are not made yet.
TRAINS = bool(TRAINING or PRETRAIN or settings.region_run(config))


def find_outdated():
    """Fill OUTDATED and REPLACED, and write the requests of unfinished slides."""
    for slide in SLIDES:
        records = PLAN.records(slide)
        if jobs := records.jobs if TRAINS else records.outdated:
            OUTDATED[slide] = jobs
            if changes := PLAN.find_replaced(slide):
                REPLACED[slide] = changes
            NEW_REQUESTS.update({(slide, job): path for job, path in write_requests(records).items()})


if workflow.is_main_process:
    or_exit(find_outdated)
