"""What a backbone knows: classes at given points, and nuclei alike, of one network or of two."""
