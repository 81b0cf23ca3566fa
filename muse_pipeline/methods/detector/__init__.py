"""Training of nucleus detectors on labels."""
