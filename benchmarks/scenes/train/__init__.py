"""Train the model that ships with mmhall, from nothing, on drawn scenes."""
