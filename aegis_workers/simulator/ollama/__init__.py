"""A double of Ollama's server."""
