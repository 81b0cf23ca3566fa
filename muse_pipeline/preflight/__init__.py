"""Checks before the run: readability, scanner and tissue of every slide, duplicates, sizes to fetch."""
