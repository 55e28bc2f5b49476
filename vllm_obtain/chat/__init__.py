"""From a conversation to a prompt, and from what a model writes to what it means."""
