"""Fence a database: disable its login and terminate its sessions."""
