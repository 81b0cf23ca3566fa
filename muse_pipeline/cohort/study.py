"""A folder for a study, which runs the workflow that is installed with the package."""

from pathlib import Path

from muse_pipeline.core.errors import OutputError
from muse_pipeline.core.files import write_text
from muse_pipeline.core.text import some_of

SNAKEFILE = '''"""The workflow of muse-pipeline, for the slides and settings in this folder.

    muse preflight config/slides.tsv     checks every slide
    snakemake                            runs what is missing

`config/README.md` explains the sheet and the settings. Rules of your own may follow below.
"""

from muse_pipeline.cohort.study import find_workflow


include: f"{find_workflow().as_posix()}/Snakefile"


rule study:
    default_target: True
    input:
        rules.all.input,
'''


def find_workflow() -> Path:
    """The folder of the workflow's Snakefile: within an installed package, or in the repository."""
    package = Path(__file__).parents[1]
    installed = package / "deployed/workflow"
    return installed if installed.is_dir() else package.parent / "workflow"


def list_recipes() -> list[Path]:
    """The configs of training runs that are installed with the workflow."""
    return sorted(find_workflow().parent.glob("config/train/*.yaml"))


def write_study(folder: Path) -> list[Path]:
    """Write a config, profiles and a Snakefile, which includes the installed one, to ``folder``;
    return the files.
    """
    top = find_workflow().parent
    copied = [
        path
        for pattern in ("config/*", "workflow/profiles/*/*")
        for path in sorted(top.glob(pattern))
    ]
    copied = [path for path in copied if path.suffix in {".md", ".yaml"}]
    texts = {path.relative_to(top): path.read_text(encoding="utf-8") for path in copied}
    texts = {
        folder / name: text
        for name, text in {Path("workflow/Snakefile"): SNAKEFILE, **texts}.items()
    }
    if existing := [str(path.relative_to(folder)) for path in texts if path.exists()]:
        raise OutputError(
            f"{folder}: already has {some_of(existing)}, so nothing was written; give another"
            " folder"
        )
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)
