"""Training of the embedded model, from scratch, on drawn scenes."""
