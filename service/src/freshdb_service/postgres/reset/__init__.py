"""Reset a database to its template, and prove that it equals the template."""
