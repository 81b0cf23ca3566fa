"""The one nucleus type and everything that is done to nuclei without a network."""
