"""Floor 3: the pure core. No clock, socket, file or random generator of its own."""
