"""A double of vLLM's OpenAI-compatible server."""
