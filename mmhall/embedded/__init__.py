"""The model that ships with mmhall: weights, processor and card. Load it with `mmhall.load()`."""
