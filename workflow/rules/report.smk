"""Pictures of every slide, and one page about the cohort.

Takes everything that the other rules wrote; gives <results>/{slide}/summary.json, density.png and overlays, and
<results>/report.html and cohort.tsv. The rule `report` runs when every slide went well; when one did not, `onerror` calls
the same command over what there is.
"""

import csv
import shutil

REPORT_COMMAND = ["muse", "report", OUTPUT, "--slides", str(SHEET), *option("--pretraining", PRETRAINING_FOLDER)]
# Without it the page tells of failures, and is no report of what is there once they are mended.
ALL_WELL = f"{OUTPUT}/logs/all_well"
# By name: what else lies there is somebody's own.
KINDS_OF_TABLE = "parquet", "csv.gz", "geojson.gz", "part-[0-9][0-9][0-9].geojson.gz", "provenance.json"
REPORT_LOG = Path(OUTPUT, "logs/report.log")


def report_failures():
    """Write the report without the slides that will never come, and withdraw what an earlier run found in them.

    Returns what the report prints.

    Nothing of a failed slide may pass for a result; and while its old nuclei are there, Snakemake would call it done. Nor
    is the copy of a slide kept that may be mended where it came from.
    """
    Path(ALL_WELL).unlink(missing_ok=True)
    page, table = Path(OUTPUT, "report.html"), Path(OUTPUT, "cohort.tsv")
    why = option("--no-model", why_no_model())
    command = [*REPORT_COMMAND, *why, "--output", page, "--table", table]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        return run.stdout
    with table.open(encoding="utf-8", newline="") as file:
        failed = [row["slide_id"] for row in csv.DictReader(file, dialect="excel-tab") if row["status"] == "failed"]
    for slide in failed:
        shutil.rmtree(Path(OUTPUT, slide, "fetched"), ignore_errors=True)
        steps = failed_steps(slide)
        for_others = {step for step in steps if step.startswith("tile-") and step != f"tile-{STORE}"}
        proposing = {step for step in steps if "propos" in step}
        nuclei, proposals = ([f"{table}.{kind}" for kind in KINDS_OF_TABLE] for table in ("nuclei", "proposals"))
        withdrawn = (
            [*nuclei, "summary.json", "density.png", "overlays/[0-9].png", "overlays/proposals.png"]
            if steps - for_others - proposing
            else []
        )
        withdrawn += proposals if steps - for_others else []
        for outdated in [path for name in withdrawn for path in Path(OUTPUT, slide).glob(name)]:
            outdated.unlink()
    return run.stdout


def what_is_done():
    """What `muse report` says, of slides to look at twice too; of a batch, or of other targets, that it is done."""
    batch = workflow.dag_settings.batch
    if batch and batch.idx < batch.batches:
        return f"Batch {batch.idx} of {batch.batches} is done."
    if not is_whole():
        return "What was asked for is done."
    done = f"All {len(SLIDES)} slides are done." if len(SLIDES) > 1 else "The slide is done."
    return "\n".join([*lines_of(REPORT_LOG), f"{done} Report: {OUTPUT}/report.html"])


def is_whole():
    """Whether the whole path was asked for, of every slide."""
    asked = workflow.dag_settings
    return set(asked.targets) <= {"all", "report"} and not (asked.until or asked.omit_from)


def what_failed():
    """Where to read of what failed; that the model is lacking is no slide's failure, and is said here."""
    if why := why_no_model():
        return f"{why[0].upper()}{why[1:]}\nSo no slide has its nuclei. Report: {OUTPUT}/report.html"
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_group()]  # that have not ended well
    behind = {job.wildcards.slide for job in jobs if "slide" in job.wildcards.keys()}
    failed = [slide for slide in behind if failed_steps(slide)]
    if waiting := len(behind) - len(failed):
        beside = f", {len(failed)} failed" if failed else ""
        unfinished = f"{waiting} of {len(SLIDES)} slides unfinished{beside}"
        return f"Stopped: {unfinished}; the same command goes on. What is known: {OUTPUT}/report.html"
    others = (
        "every other slide is done"
        if is_whole() and not workflow.dag_settings.batch
        else "what else was asked for is done"
    )
    return f"Something failed; {others}. Which, and why: {OUTPUT}/report.html"


def failed_steps(slide):
    """Steps of the slide that noted their failure or were killed; where there are no ledgers nothing is withdrawn."""
    return {
        path.stem for path in Path(OUTPUT, slide).glob("ledger/*.json") if status(path) not in {"ok", "interrupted"}
    }


def forget_unasked_steps():
    """Remove what steps noted that are not asked for any more: failures there would stay in the report.

    Those are stores and proposals that the config had, and copies of slides that the sheet now has here. Proposals that
    were found stay: a run that does not ask for them is no reason to lose them.
    """
    asked = {Path(store) for store in every_store(None)}
    for slide in SLIDES:
        if not is_elsewhere(slide):
            Path(OUTPUT, slide, "ledger/fetch.json").unlink(missing_ok=True)
        for ledger in Path(OUTPUT, slide).glob("ledger/tile-*.json"):
            if Path(OUTPUT, slide, ledger.stem.removeprefix("tile-")) not in asked:
                ledger.unlink(missing_ok=True)
        for ledger in [] if config["proposals"] else Path(OUTPUT, slide).glob("ledger/*propos*.json"):
            if status(ledger) != "ok":
                ledger.unlink(missing_ok=True)


def status(ledger):
    """How a step ended, by its ledger; "killed" if it has noted nothing."""
    return read_ledger(ledger).get("status", "killed")


def read_ledger(path):
    """What a step noted of its end; {} if it was killed before or has not begun."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


if not DRAWS_AT_ONCE:

    rule overlay:
        """Draw the density of the nuclei and three places with their outlines, and sum the slide up."""
        input:
            nuclei="<results>/{slide}/nuclei.parquet",
            store=f"<results>/{{slide}}/{STORE}",
            info="<results>/{slide}/slide.json",
            tissue="<results>/{slide}/tissue.npz",
            proposals="<results>/{slide}/proposals.parquet",
        output:
            summary="<results>/{slide}/summary.json",
            density="<results>/{slide}/density.png",
            overlays=directory("<results>/{slide}/overlays"),
        log:
            text="<results>/{slide}/logs/overlay.log",
            ledger="<results>/{slide}/ledger/overlay.json",
        benchmark:
            "<results>/{slide}/benchmarks/overlay.tsv"
        conda:
            "../../envs/infer.yaml"
        params:
            folder=subpath(output.summary, parent=True),
        shell:
            r"""
            muse overlay {params.folder:q} \
                --ledger {log.ledger:q} >{log.text:q} 2>&1
            """


rule report:
    """Say of every slide what became of it, failures first."""
    input:
        sheet=str(SHEET),
        nuclei=of_every_slide("nuclei.geojson.gz"),
        summaries=of_every_slide("summary.json"),
        compared=COMPARED,
    output:
        page="<results>/report.html",
        table="<results>/cohort.tsv",
        all_well=touch(ALL_WELL),
    log:
        "<results>/logs/report.log",
    benchmark:
        "<results>/benchmarks/report.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        command=REPORT_COMMAND,
    shell:
        r"""
        {params.command:q} \
            --output {output.page:q} \
            --table {output.table:q} >{log:q} 2>&1
        """
