"""The workflow in workflow/Snakefile, for `snakemake` in a clone of the repository.

`profiles/` at the top is a link to workflow/profiles, because Snakemake looks for profiles next to the Snakefile.
"""


include: "workflow/Snakefile"


# The default target of an included file is ignored, and that of this file is its first rule.
rule cohort:
    """All files that the config requests."""
    input:
        rules.all.input,
