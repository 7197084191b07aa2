"""Floor 6: one file a command group; no logic of its own."""
