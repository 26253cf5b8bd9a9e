"""Status for operators: the overview, the state of each server, and findings."""
