"""The drawn demo slide: tissue that never was, with every nucleus known. It trains, tunes and is fitted to no model."""
