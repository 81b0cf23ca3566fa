"""Drawn pictures of eight patients in three splits, for probes."""

from __future__ import annotations

from pathlib import Path

from labelled import draw_labelled_folder, write_config

SOURCE = """  - images: images
    labels: labels
    format: row column class
    mpp: 0.5
    class_map: {{ "1": Dark, "2": Pale }}
    split: {split}.txt
"""


def write_probe_configs(folder: Path) -> tuple[Path, Path]:
    """A config of training (P0, P1) and validation (P2 to P5), and one whose sources are a test (P6, P7)."""
    draw_labelled_folder(folder, n_pictures=8)
    for split, numbers in {"train": (0, 1), "val": (2, 3, 4, 5), "test": (6, 7)}.items():
        (folder / f"{split}.txt").write_text("".join(f"P{number}.png\n" for number in numbers))
    text = write_config(folder).read_text()
    before, after = text[: text.index("sources:")], text[text.index("n_rays:") :]
    for name, sections in {"probe": {"sources": "train", "validation": "val"}, "test": {"sources": "test"}}.items():
        sources = "".join(f"{key}:\n{SOURCE.format(split=split)}" for key, split in sections.items())
        (folder / f"{name}.yaml").write_text(before + after + sources)
    return folder / "probe.yaml", folder / "test.yaml"
