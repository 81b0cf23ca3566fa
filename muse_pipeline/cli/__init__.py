"""The command line: one verb = one file = one rule of the workflow."""
