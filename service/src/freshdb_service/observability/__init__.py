"""Metrics, logs, traces, the history of resets, and the liveness of connections."""
