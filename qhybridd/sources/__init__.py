"""Floor 4: key sources. A source gives secrets by key ID."""
