"""Count the genes of a spatial assay in the nuclei of a slide: Visium HD bins or Xenium
transcripts.

    muse bins results/slide --visium-hd outs/binned_outputs
    muse bins results/slide --xenium outs/transcripts.parquet --transform he_imagealignment.csv

Writes `bins.h5ad` (AnnData): X has the counts of each nucleus, obs its class and probabilities,
obsm its position and features. Positions outside nuclei count for the nearest nucleus within
--expand-um. Needs the extra `spatial`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from muse_pipeline.cli.signature import Results
from muse_pipeline.core.types import Written
from muse_pipeline.outputs.cells import EXPAND_UM


def run(
    slide: Results,
    visium_hd: Path | None = None,
    xenium: Path | None = None,
    transform: Path | None = None,
    expand_um: float = EXPAND_UM,
    output: Written | None = None,
) -> int:
    """Count the genes in the nuclei, write the file, and print the fraction of the counts in
    nuclei.

    Args:
        slide: folder of a slide's results
        visium_hd: Space Ranger's binned_outputs
        xenium: Xenium's transcripts.parquet
        transform: map from the slide to the assay's picture: transform.json from `muse register`,
            landmarks, or a matrix, such as Xenium Explorer's (default: they are the same picture)
        expand_um: count positions up to this distance from a nucleus; 0: only positions inside
        output: file to write (default: bins.h5ad in the slide's folder)

    Returns:
        1 if the alignment is doubtful, and an existing file was therefore kept.
    """
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.core.errors import ArgumentError
    from muse_pipeline.core.text import count_noun
    from muse_pipeline.scverse.bins import count_in_nuclei, read_visium_hd, read_xenium, write_bins
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.tissue.mask import TissueMask

    if bool(visium_hd) == bool(xenium):
        raise ArgumentError("give either --visium-hd or --xenium, the counts of the assay")
    if not 0 <= expand_um <= 50:
        raise ArgumentError(f"--expand-um {expand_um:g}: give a distance from 0 to 50 um")
    if xenium and not transform:
        raise ArgumentError(
            "--xenium: positions are in the frame of Xenium's own picture; give its alignment as"
            " --transform"
        )
    files = SlideFiles(slide)
    info, output = read_info(files.info), output or files.bins
    assay = read_visium_hd(visium_hd) if visium_hd else read_xenium(xenium)
    tissue = TissueMask.load(files.mask, info)
    counts = count_in_nuclei(files.nuclei, info, tissue, assay, transform, expand_um)
    if counts.doubt:
        kept = f"; {output} exists and was kept" if output.exists() else ""
        print(f"muse bins: {assay.path}: {counts.doubt}{kept}", file=sys.stderr)
    if not (counts.doubt and output.exists()):
        write_bins(files.nuclei, assay, counts.matrix, output)
        n_nuclei, n_genes = counts.matrix.shape
        of_bins = f" from bins of {assay.bin_um:g} um" if assay.bin_um else ""
        others = (
            f" (left out: {count_noun(assay.n_others, 'feature')} of other kinds)"
            if assay.n_others
            else ""
        )
        print(
            f"{output}: {n_nuclei:,} nuclei, {count_noun(n_genes, 'gene')}{of_bins}{others};"
            f" {counts.of_counts:.1%} of the counts and {counts.of_positions:.1%} of the positions"
            f" belong to nuclei{counts.unjudged and '; '}{counts.unjudged}"
        )
    return int(bool(counts.doubt))
