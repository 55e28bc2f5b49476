"""Types of requests, responses and events, with OpenAI's names and formats."""
