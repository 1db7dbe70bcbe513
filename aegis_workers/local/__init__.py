"""The whole system on one machine: Redis, engine doubles, workers and Flower as children of one process."""
