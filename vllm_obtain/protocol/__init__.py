"""OpenAI's names and shapes: requests as they come in, answers as they go out, events between."""
