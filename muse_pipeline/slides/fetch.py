"""Copy a slide from where its URL leads, over whatever fsspec knows: https, s3 and others.

Readers seek about in local files, most of them in C, so that a slide is copied whole before it is opened.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from muse_pipeline.errors import SlideError
from muse_pipeline.files import complete_file, require_own_folder
from muse_pipeline.slides.fetched import SOURCE, write_source
from muse_pipeline.slides.remote import RemoteSlide
from muse_pipeline.slides.remote_copy import copy_file
from muse_pipeline.slides.url import SlideUrl


def fetch_slide(url: SlideUrl, folder: Path | str, threads: int = 1) -> int:
    """Copy a slide into ``folder``, which appears when all of it has arrived, and says there where it came from.

    A MIRAX slide comes with its folder, a DICOM file with those beside it. A block that does not arrive is asked for
    again; one process that was killed leaves nothing to go on from.

    Args:
        url: the slide.
        folder: what to write; an older copy is replaced, and no other folder.
        threads: blocks that are on their way at a time.

    Returns:
        bytes copied.

    Raises:
        SlideError: there is no such file, access is refused, the server cannot be reached, or the file changes.
        MissingPackageError: what speaks this protocol is not installed.
        OutputError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    require_own_folder(folder, (folder / SOURCE).is_file())
    slide = RemoteSlide(url)
    with complete_file(folder) as partial:
        n_bytes, version = 0, None
        for path, name in slide.files():
            if ".." in PurePosixPath(name).parts:  # object storage takes any name
                raise SlideError(f"{url}: '{name}' among its files would lie outside of the copy; rename it there")
            stated = slide.state(path)
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            copy_file(slide, path, stated, partial / name, threads)
            n_bytes += stated.n_bytes
            version = version or stated.version
        write_source(partial, url, url.file_name, n_bytes, version)
    return n_bytes


def ask_size(url: SlideUrl) -> int:
    """Bytes of a slide, by its server; of a slide of many files, of the one that the URL names.

    Raises:
        SlideError, MissingPackageError: as ``fetch_slide`` does.
    """
    slide = RemoteSlide(url)
    return slide.state(slide.path).n_bytes
