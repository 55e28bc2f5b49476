"""OpenAI's Responses API, as another way to ask for a chat.

A body becomes typed fields (`asked`) and items (`items`), these a chat request (`translate`); its
events become items again (`building`) and those an answer (`render`), which `store` keeps.
"""
