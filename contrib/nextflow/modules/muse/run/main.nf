process MUSE_RUN {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"

    input:
    tuple val(meta), path(slide)
    path(model, stageAs: 'model/*')

    output:
    tuple val(meta), path("${prefix}/*/nuclei.geojson.gz"), emit: geojson
    tuple val(meta), path("${prefix}/*/nuclei.parquet"),    emit: parquet
    tuple val(meta), path("${prefix}/*/overlays"),          emit: overlays
    tuple val(meta), path("${prefix}/cohort.tsv"),          emit: summary
    tuple val(meta), path("${prefix}/report.html"),         emit: report
    path "versions.yml",                                    emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args  = task.ext.args ?: ''
    prefix    = task.ext.prefix ?: "${meta.id}"
    def named = model ? "--model ${model}" : ''
    def mpp   = meta.mpp ? "--mpp ${meta.mpp}" : ''
    def organ = meta.organ ? "--organ '${meta.organ}'" : ''
    def stain = meta.stain ? "--stain '${meta.stain}'" : ''
    """
    muse run ${slide} \\
        --output ${prefix} \\
        --threads ${task.cpus} \\
        ${named} \\
        ${mpp} \\
        ${organ} \\
        ${stain} \\
        ${args}

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        muse-pipeline: \$(muse --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir -p ${prefix}/${meta.id}/overlays
    echo '' | gzip > ${prefix}/${meta.id}/nuclei.geojson.gz
    touch ${prefix}/${meta.id}/nuclei.parquet ${prefix}/cohort.tsv ${prefix}/report.html

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        muse-pipeline: \$(muse --version | sed 's/.* //')
    END_VERSIONS
    """
}
