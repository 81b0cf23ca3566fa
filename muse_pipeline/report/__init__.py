"""The report of a cohort: pictures of each slide, tables and one page."""
