"""Pools: their size, and the jobs that provision and reset their databases."""
