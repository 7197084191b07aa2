"""Programs for the people who develop this one; nothing of it is installed."""
