"""Templates: register them, run their builds, and choose a server for each."""
