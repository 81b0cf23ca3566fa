"""Synthesised instance masks: nuclei of glands and stroma, drawn from measured statistics in um."""
