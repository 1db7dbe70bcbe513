"""What is counted and shown to Prometheus; the only part that knows of its client library."""
