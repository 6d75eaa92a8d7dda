"""The database of jobs, uploads, predictions' index, idempotency keys and webhook deliveries: SQLite, or PostgreSQL by URL."""
