"""Renders chats to prompts, and parses generated text into reasoning, text and tool calls."""
