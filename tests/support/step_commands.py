"""The commands of a slide's steps, as typed by a user without Snakemake."""

from __future__ import annotations

from pathlib import Path


def step_commands(slide: Path, folder: Path, threads: int = 1) -> list[list[str]]:
    """The arguments of ``muse`` for every step of a slide, in order, with results in ``folder``."""
    info, tissue, colour = (folder / name for name in ("slide.json", "tissue.npz", "colour.json"))
    nuclei = folder / "nuclei.parquet"
    store, shard, at_once = (
        folder / "image-500nm.zarr",
        folder / "shards/1-of-1.parquet",
        ["--threads", threads],
    )
    artefacts = ["--artefacts", folder / "artefacts.geojson"]
    pixels = ["--features", "basic", "--store", store, "--colour", colour, *artefacts]
    pictures = [
        "--mask",
        tissue,
        "--picture",
        folder / "tissue.png",
        "--outline",
        folder / "tissue.geojson",
    ]
    commands = [
        ["step", "inspect", slide, "--slide-id", folder.name, "--output", info],
        ["step", "tissue", slide, "--info", info, *pictures, "--colour", colour],
        ["step", "tile", slide, "--info", info, "--tissue", tissue, *at_once, "--output", store],
        [
            "step",
            "detect",
            store,
            "--model",
            "compact",
            "--colour",
            colour,
            *at_once,
            "--output",
            shard,
        ],
        [
            "step",
            "stitch",
            shard,
            "--info",
            info,
            "--tissue",
            tissue,
            *pixels,
            *at_once,
            "--output",
            nuclei,
        ],
        [
            "step",
            "geojson",
            nuclei,
            "--info",
            info,
            *at_once,
            "--output",
            folder / "nuclei.geojson.gz",
        ],
        ["step", "overlay", folder],
    ]
    return [
        [*map(str, command), "--ledger", str(folder / f"ledger/{step_of(command)}.json")]
        for command in commands
    ]


def step_of(command: list[str]) -> str:
    """The name of the step that a command runs."""
    return command[command[0] == "step"]
