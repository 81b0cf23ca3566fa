"""The type ``Nuclei``, and all operations on nuclei that need no neural network."""
