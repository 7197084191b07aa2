"""Floor 5: programs that stand beside the daemon."""
