"""What an operator reads: the overview, the state of each server, and findings."""
