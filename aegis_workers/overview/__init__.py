"""The system at one moment, as plain values: what the command line, the admin API and the metrics show."""
