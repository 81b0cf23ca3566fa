"""Pretrain a backbone on tissue without labels, as a config describes (MUSE).

Like `muse train` with `method: muse`. Writes into the run folder: checkpoint.pt (a backbone, for `muse finetune` and
`muse compare`), the resolved config.yaml, provenance.json, metrics.jsonl, curves.png and views.png. The same command
continues a run that was stopped; a run that collapses ends with an error. See docs/guide/pretraining.md.
"""

import argparse

from muse_pipeline.cli import train

add_arguments = train.add_arguments


def run(args: argparse.Namespace) -> None:
    """Pretrain one backbone."""
    train.run(args, default="muse")
