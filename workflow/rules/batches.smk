"""Small slides, which take less time than a process needs to start: several of them are run by one `muse run`.

Reads the rows of a batch, <results>/logs/batches/{batch}.json, which the workflow writes before its jobs start; writes all
results of the slides. A failed slide fails the job after all other slides of the batch, which the next run skips.
"""


rule small_slides:
    """Run all steps of a batch of small slides."""
    input:
        rows=lambda wildcards: TODO.rows_of_batch(wildcards.batch),
        model=model_file,
    output:
        done=temp(touch("<results>/logs/batches/{batch}.done")),
    log:
        "<results>/logs/batches/{batch}.log",
    resources:
        mem_mb=by_attempt(3000),
        runtime=by_attempt(120),
    params:
        results=subpath(output.done, ancestor=3),
        config=CONFIG,
        model=model_options,
    shell:
        r"""
        muse run {input.rows:q} --no-report \
            --config {params.config:q} {params.model:q} \
            --threads {threads} \
            --output {params.results:q} >{log:q} 2>&1
        """
