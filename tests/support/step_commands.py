"""The commands of a slide's steps, as typed by a user without Snakemake."""

from __future__ import annotations

from pathlib import Path


def step_commands(slide: Path, folder: Path, threads: int = 1) -> list[list[str]]:
    """The arguments of ``muse`` for every step of a slide, in order, with results in ``folder``."""
    info, tissue, store = (
        f"{folder}/{n}" for n in ("slide.json", "tissue.npz", "image-500nm.zarr")
    )
    nuclei, shard = f"{folder}/nuclei.parquet", f"{folder}/shards/1-of-1.parquet"
    colour = f"--colour {folder}/colour.json"
    pictures = f"--picture {folder}/tissue.png --outline {folder}/tissue.geojson"
    pixels = f"--features basic --store {store} {colour} --artefacts {folder}/artefacts.geojson"
    at_once = f"--threads {threads} --output"
    commands = [
        f"step inspect {slide} --slide-id {folder.name} --output {info}",
        f"step tissue {slide} --info {info} --mask {tissue} {pictures} {colour}",
        f"step tile {slide} --info {info} --tissue {tissue} {at_once} {store}",
        f"step detect {store} --model compact {colour} {at_once} {shard}",
        f"step stitch {shard} --info {info} --tissue {tissue} {pixels} {at_once} {nuclei}",
        f"step geojson {nuclei} --info {info} {at_once} {folder}/nuclei.geojson.gz",
        f"step overlay {folder}",
    ]
    words = [command.split() for command in commands]
    return [[*each, "--ledger", f"{folder}/ledger/{step_of(each)}.json"] for each in words]


def step_of(command: list[str]) -> str:
    """The name of the step that a command runs."""
    return command[command[0] == "step"]
