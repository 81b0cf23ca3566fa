"""The synthetic demo slide, with all its true nuclei.

No model is trained, tuned or fitted on it.
"""
