"""PSM: nuclei learnt from pictures without labels, stage by stage."""
