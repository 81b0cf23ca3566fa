"""From a training config to a model, when the config names a training run.

Takes config/train/<run>.yaml; gives <results>/training/<run>/checkpoint.pt and model.onnx. What a run needs to resume
lies undeclared beside its checkpoint, because Snakemake deletes the declared outputs of a job that fails.
"""


rule finetune:
    """Train backbone and nucleus head on labelled nuclei."""
    input:
        run=lambda wildcards: config["train"],
    output:
        checkpoint="<results>/training/{run}/checkpoint.pt",
    log:
        "<results>/training/{run}/logs/finetune.log",
    benchmark:
        "<results>/training/{run}/benchmarks/finetune.tsv"
    conda:
        "../../envs/train.yaml"
    params:
        data=option("--data", config["train_data"]),
        folder=subpath(output.checkpoint, parent=True),
    shell:
        r"""
        muse finetune {input.run:q} {params.data:q} \
            --threads {threads} \
            --output {params.folder:q} 2>&1 | tee {log:q}
        """


rule export:
    """Turn the checkpoint into one ONNX file with its card inside."""
    input:
        checkpoint="<results>/training/{run}/checkpoint.pt",
    output:
        model="<results>/training/{run}/model.onnx",
    log:
        "<results>/training/{run}/logs/export.log",
    benchmark:
        "<results>/training/{run}/benchmarks/export.tsv"
    conda:
        "../../envs/train.yaml"
    shell:
        r"""
        muse export {input.checkpoint:q} \
            --output {output.model:q} 2>&1 | tee {log:q}
        """
