"""OpenAI's Responses API, built on chat requests.

`parse` reads the body and `translate` makes a chat request of it. `item_builder` turns the
events of the generation into items, `render` into a response, and `store` stores the response.
"""
