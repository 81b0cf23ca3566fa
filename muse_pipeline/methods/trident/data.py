"""Data of a TriDeNT run: MUSE's images, and the partner of each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.text import count_noun
from muse_pipeline.data.partners import Partner, PartnerSource, failure_of, open_partner
from muse_pipeline.data.spots import SpotVectors
from muse_pipeline.methods.muse.data import PretrainData, read_pretrain_data
from muse_pipeline.methods.trident.config import TridentConfig
from muse_pipeline.training.run import Say


@dataclass(frozen=True, eq=False)
class PairedData(PretrainData):
    """Images that hold enough nuclei, and their partners.

    Attributes:
        partners: partner of each image, None for none; all of them pictures, or all vectors of the same columns.
    """

    partners: list[Partner | None]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of vectors; none if partners are pictures."""
        return next((one.names for one in self.partners if isinstance(one, SpotVectors)), ())


def read_paired_data(config: TridentConfig, folder: Path, say: Say) -> PairedData:
    """Open every source and the partners of its images (``muse.data.read_pretrain_data`` and ``open_partner``).

    Raises:
        ConfigError: no image has a partner, or two tables have other columns.
        MuseError: a source or a partner cannot be used.
    """
    data = read_pretrain_data(
        config.sources, config.views.mpp[0], config.min_nuclei, folder, say, config.region_weights
    )
    wanted = [source.partner if config.alignment.branches > 1 else None for source in data.sources]
    partners = [
        None if source is None else open_partner(source, image, folder)
        for source, image in zip(wanted, data.images, strict=True)
    ]
    _require_partners(wanted, partners)
    _report_failures(wanted, say)
    tables = [one for one in partners if isinstance(one, SpotVectors)]
    if other := next((one for one in tables if one.names != tables[0].names), None):
        only = sorted(set(other.names) ^ set(tables[0].names)) or list(other.names)
        raise ConfigError(
            f"sources: the vectors of two partners have different columns (first: '{only[0]}'); name the columns that "
            "all tables have in `columns`, in one order"
        )
    parts = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    return PairedData(**parts, partners=partners)


def _require_partners(sources: list, partners: list[Partner | None]) -> None:
    """Reject a source whose folder has a file for none of its pictures, and slides none of which has a partner."""
    for source in dict.fromkeys(source for source in sources if source and source.store is None):
        of_source = [partner for wanted, partner in zip(sources, partners, strict=True) if wanted == source]
        if all(partner is None for partner in of_source):
            raise ConfigError(
                f"{source.location}: has no file for any of {len(of_source)} pictures; partners have the names of "
                "their pictures"
            )
    failures = [failure for source in filter(None, sources) if (failure := _failure(source))]
    if failures and not any(partners):
        raise ConfigError(
            f"sources: no slide has a partner that could be registered ({count_noun(len(failures), 'failure')}, first: "
            f"{failures[0]}); correct the partners, or set `alignment.branches` to 1"
        )


def _report_failures(sources: list[PartnerSource | None], say: Say) -> None:
    for source in filter(None, sources):
        if failure := _failure(source):
            say(f"{source.store.parent.parent.name}: trained without its partner: {failure}")


def _failure(source: PartnerSource) -> str:
    return failure_of(source.store) if source.store else ""
