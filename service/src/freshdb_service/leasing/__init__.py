"""Leases: acquire, renew, release, and end them."""
