"""Steps that find out whether a slide can be read: `fetch` and `inspect`.

They import little, so that `inspect` forks a process that has no other threads.
"""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.cohort.sheet import read_row
from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.files import write_json
from muse_pipeline.core.types import Written
from muse_pipeline.slides.inspect import info_text, inspect_slide
from muse_pipeline.slides.isolation import call_isolated
from muse_pipeline.slides.remote import SlideUrl, fetch_slide, is_url


def fetch(url: str, output: Written, slide_id: str | None = None) -> None:
    """Copy a slide from its URL to a folder, which later steps accept as the slide.

    Credentials in a URL (user:password@, a signed query) are neither written nor printed.

    Args:
        url: URL of the slide, or a sheet that contains it.
        output: folder for the copy.
        slide_id: slide of the sheet.
    """
    if not is_url(url):
        if slide_id is None:
            raise SlideError(f"{url}: is not a URL; give a URL, or a sheet and --slide-id")
        url = read_row(url, slide_id).path
        if not is_url(url):
            raise SlideError(
                f"{url}: is a local file, so there is nothing to fetch for '{slide_id}'"
            )
    url = url if isinstance(url, SlideUrl) else SlideUrl(url)
    n_bytes = fetch_slide(url, output)
    print(f"{url}: {n_bytes:,} bytes")


def inspect(
    slide: Path,
    slide_id: str | None = None,
    mpp: float | None = None,
    source: str | None = None,
    output: Written | None = None,
) -> None:
    """Show the properties of a slide: size, mpp and its source, levels, bounds, warnings.

    The slide is opened in a separate process, so that a file that crashes or hangs its reader is
    rejected here.

    Args:
        slide: a slide or a plain image, or a folder written by ``fetch``.
        slide_id: name in the cohort (default: the name of the file).
        mpp: um per level-0 pixel, instead of the file's.
        source: URL from which the slide must have been fetched.
        output: also write them to this file, slide.json, which later steps read.
    """
    info = call_isolated(inspect_slide, slide, slide_id or slide.stem, mpp, source)
    if output:
        write_json(output, info.to_dict())
    print(info_text(info))
