"""The type of nuclei, and all operations on nuclei that need no network."""
