"""Keys, credits and jobs in SQL: SQLite in WAL mode, or PostgreSQL with the same statements."""
