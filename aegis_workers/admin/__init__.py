"""The admin API: bulk jobs over HTTP, in the form that clients of OpenAI's batches know."""
