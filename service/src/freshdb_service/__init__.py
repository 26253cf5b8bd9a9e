"""freshdb's service: leases clean PostgreSQL databases over HTTP, from pools of ready clones."""

__version__ = "0.1.0"
