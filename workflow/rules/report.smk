"""One page about the cohort.

Takes everything that the other rules wrote; gives <results>/report.html and cohort.tsv. The rule runs when every slide
went well; when one did not, `onerror` calls the same command over what there is.
"""

import csv

REPORT_COMMAND = ["muse", "report", OUTPUT, "--slides", str(SHEET)]


def report_failures():
    """Write the report without the slides that will never come, and withdraw what an earlier run found in them.

    Nothing of a failed slide may pass for a result; and while its old nuclei are there, Snakemake would call it done.
    """
    page, table = Path(OUTPUT, "report.html"), Path(OUTPUT, "cohort.tsv")
    if subprocess.run([*REPORT_COMMAND, "--output", page, "--table", table]).returncode:
        return
    with table.open(encoding="utf-8", newline="") as file:
        failed = [row["slide_id"] for row in csv.DictReader(file, dialect="excel-tab") if row["status"] == "failed"]
    for slide in failed:
        for outdated in Path(OUTPUT, slide).glob("nuclei.*"):
            outdated.unlink()


rule report:
    """Say of every slide what became of it, failures first."""
    input:
        sheet=str(SHEET),
        nuclei=of_every_slide("nuclei.geojson.gz"),
    output:
        page="<results>/report.html",
        table="<results>/cohort.tsv",
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
            --table {output.table:q} 2>&1 | tee {log:q}
        """
