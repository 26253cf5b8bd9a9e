"""One managed PostgreSQL server: its connections, capabilities, and what runs on it."""
