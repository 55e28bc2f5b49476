"""Fetching models: names people remember, the hubs that have them, and a folder that is whole.

The client libraries of the hubs are imported by whoever fetches (a command, or the child process of
the supervisor), never by the gateway or the supervisor themselves.
"""
