"""What people do with a leased database inside their tests, as small independent modules."""
