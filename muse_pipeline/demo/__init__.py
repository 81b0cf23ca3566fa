"""The synthetic demo slide, with all true nuclei. No model is trained, tuned or fitted on it."""
