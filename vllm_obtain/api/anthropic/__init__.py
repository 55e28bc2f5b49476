"""Anthropic's Messages API, answered by the same generations as OpenAI's."""
