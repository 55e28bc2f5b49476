"""Anthropic's Messages API, built on chat requests."""
