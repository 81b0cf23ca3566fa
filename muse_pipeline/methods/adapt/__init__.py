"""Adaptation of a trained detector to tissue without labels: MUSE, and distillation from the detector itself."""
