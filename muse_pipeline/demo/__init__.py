"""The synthetic demo slide, with every nucleus known. No model is trained, tuned or fitted on it."""
