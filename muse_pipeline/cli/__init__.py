"""The command line: a module for each verb, most of which are also called by rules of the workflow."""
