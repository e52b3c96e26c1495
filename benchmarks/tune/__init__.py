"""Choose options of strategies on pictures with known objects."""
