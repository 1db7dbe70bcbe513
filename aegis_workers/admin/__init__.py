"""The admin API: the system and its mode, a page that shows them, metrics, and bulk jobs in the form of OpenAI's batches."""
