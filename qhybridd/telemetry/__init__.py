"""Floor 4: what the daemon tells the outside."""
