"""Where a slide holds tissue, what its outline is and how it is stained."""
