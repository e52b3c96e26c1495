"""Training of the embedded models, from scratch, on drawn scenes."""
