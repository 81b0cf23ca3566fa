"""Tissue without labels to compare two networks on: a pretraining config, or its sources alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from muse_pipeline.config import parse_config, parse_yaml, starting_at
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.errors import ConfigError
from muse_pipeline.training.pretrain_config import PretrainConfig


@dataclass(frozen=True)
class TissueConfig:
    """What two networks are compared on.

    Attributes:
        sources: tissue with nucleus positions.
        views: of these the two ends of ``mpp`` count.
        min_nuclei: images with fewer are left out.
    """

    sources: tuple[NucleusSource, ...]
    views: ViewSettings = field(default_factory=ViewSettings)
    min_nuclei: int = 50

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources: there is none; name tissue with nucleus positions")
        fine, coarse = self.views.mpp
        if not fine < coarse:
            raise ConfigError(f"views: mpp is [{fine:g}, {coarse:g}]; nuclei are looked at at two, as in [0.25, 0.5]")


def load_tissue_config(path: Path, data: Path | None = None) -> TissueConfig:
    """Read the settings of tissue; those of a pretraining that are of no use here may stand beside them.

    Args:
        path: of the YAML file.
        data: where the paths of sources start; the file's own folder when not given.

    Raises:
        ConfigError: see ``config.load_config``.
    """
    values = _read(path)
    own, other = ({one.name for one in dataclasses.fields(kind)} for kind in (TissueConfig, PretrainConfig))
    useful = {name: value for name, value in values.items() if name in own or name not in other}
    config = parse_config(useful, TissueConfig, str(path))
    root = (data or Path(path).parent).resolve()
    return dataclasses.replace(config, sources=tuple(starting_at(source, root) for source in config.sources))


def is_tissue_config(path: Path) -> bool:
    """Whether a config names no classes, as those of pretraining do.

    Raises:
        ConfigError: it cannot be read.
    """
    return "classes" not in _read(path)


def _read(path: Path) -> dict:
    try:
        values = parse_yaml(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML config") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values
