"""Write a synthetic slide with known nuclei: tissue islands, glands, stroma, a fold and a pen mark.

Writes demo.svs (an Aperio-like pyramid), truth.csv (every nucleus), and slides.tsv and config.yaml
for `snakemake --configfile OUT_DIR/config.yaml`. The same seed gives the same tissue at every mpp.
"""

from __future__ import annotations

from pathlib import Path


def run(
    folder: Path,
    area_mm2: float = 7.0,
    mpp: float = 0.25,
    seed: int = 0,
    partner: bool = False,
    threads: int = 1,
) -> None:
    """Write the slide.

    Args:
        folder: output folder
        area_mm2: area of the tissue
        mpp: um per level-0 pixel
        seed: seed of the tissue
        partner: also write ihc.svs: the same tissue with brown lymphocytes, rotated
        threads: blocks painted at the same time
    """
    from muse_pipeline.demo.write import write_demo

    n_nuclei = write_demo(folder, area_mm2, mpp, seed, threads, partner=partner)
    print(
        "a fold, partly out of focus, and a pen mark are drawn on purpose, for the search for"
        " artefacts"
    )
    print(
        f"{folder / 'demo.svs'}: synthetic; its {n_nuclei:,} nuclei are in {folder / 'truth.csv'}"
    )
