"""Choose among given answers."""
