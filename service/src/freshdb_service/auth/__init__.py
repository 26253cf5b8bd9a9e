"""Tokens, their quotas, and the audit log."""
