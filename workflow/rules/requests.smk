"""Which slides are not finished, and the requests of their jobs.

Reads and writes <results>/{slide}/logs/requests (muse_pipeline/cohort/records.py): a request has the settings of a job,
and is an input of the job's rule. Snakemake plans jobs only for slides with jobs that are not current.
"""

# A run that trains a model plans all slides, because results depend on files that are not made yet.
TRAINS = bool(TRAINING or PRETRAIN or settings.region_run(config))


def find_outdated():
    """Find the unfinished slides, write their requests, and print which results the run replaces."""
    replaced = {}
    for slide in SLIDES:
        records = PLAN.records(slide)
        if jobs := records.jobs if TRAINS else records.outdated:
            OUTDATED[slide] = jobs
            if changes := PLAN.find_replaced(slide):
                replaced[slide] = changes
            if Path(PLAN.folder(slide), "nuclei.parquet").exists():
                FINISHED.append(slide)
            NEW_REQUESTS.update({(slide, job): path for job, path in write_requests(records).items()})
    BATCHES.update(PLAN.batches(OUTDATED))
    BATCH_OF.update({slide: batch for batch, slides in BATCHES.items() for slide in slides})
    if not workflow.output_settings.dryrun:
        for done in Path(OUTPUT, "logs/batches").glob("*.done"):  # of a run that was killed
            done.unlink()
        for batch, slides in BATCHES.items():
            settings.write_if_changed(batch_file(batch), json.dumps([ROWS[slide] for slide in slides]))
    Announced.results, Announced.batches = Path(OUTPUT), BATCHES
    Announced.last_jobs = {slide: jobs[-1].name for slide, jobs in OUTDATED.items()}
    print(f"model: {MODEL.get('model', MODEL['name'])}, provider {MODEL['provider']}", file=sys.stderr)
    print(*describe_changes(replaced), sep="\n", end="\n" if replaced else "", file=sys.stderr, flush=True)


if workflow.is_main_process:
    checked(find_outdated)
