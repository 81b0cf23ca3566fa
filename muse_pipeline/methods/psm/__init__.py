"""PSM: detectors from unlabelled tissue (arXiv 2210.07862)."""
