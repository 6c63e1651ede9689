"""For users of particular servers."""
