"""The report of a cohort: pictures per slide, one table, one page."""
