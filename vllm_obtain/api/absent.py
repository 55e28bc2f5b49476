"""What other services have on their paths and this one does not do, and what to do instead."""

from __future__ import annotations

from vllm_obtain.errors import NotDone, NotFound

_CHAT = "Keep the conversation where your client runs and send it to /v1/chat/completions."
_FILES = "Send what a request needs within the request."
_MODELS_HERE = "Models are files in MODELS_DIR: put them there, and they are found by themselves."
_NO_ACCOUNTS = "There are no accounts here."

# The beginning of a path, what it is for, and what to do instead.
_ABSENT = {
    "/v1/audio": ("Audio", "Run a speech service such as whisper.cpp's server beside this one."),
    "/v1/images": ("Making images", "Run an image service beside this one."),
    "/v1/videos": ("Making videos", "Run a video service beside this one."),
    "/v1/files": ("Keeping files", _FILES),
    "/v1/uploads": ("Keeping files", _FILES),
    "/v1/batches": (
        "Batches",
        "Send the requests themselves, many at once: they share the engine's steps, and those "
        "that find no place wait.",
    ),
    "/v1/assistants": ("Assistants", _CHAT),
    "/v1/threads": ("Threads", _CHAT),
    "/v1/conversations": ("Conversations", _CHAT),
    "/v1/chatkit": ("ChatKit", _CHAT),
    "/v1/fine_tuning": (
        "Fine-tuning",
        "Train with a tool made for it, and put the result into MODELS_DIR.",
    ),
    "/v1/vector_stores": ("Vector stores", "Run a vector database beside this service."),
    "/v1/moderations": ("Moderation", "Ask a model for a judgement at /v1/chat/completions."),
    "/v1/realtime": ("Realtime sessions", "Use a streamed answer of /v1/chat/completions."),
    "/v1/evals": ("Evals", "Run the cases from where your client runs."),
    "/v1/containers": ("Containers", "Run code where your client runs."),
    "/v1/skills": ("Skills", "Write what the model shall know into its messages."),
    "/v1/edits": ("Edits", "Ask for the edit at /v1/chat/completions."),
    "/v1/engines": ("A list of engines", "GET /v1/models lists the models."),
    "/v1/organization": ("Organizations", _NO_ACCOUNTS),
    "/v1/projects": ("Projects", _NO_ACCOUNTS),
    "/api/push": ("Pushing models", "Copy the files out of MODELS_DIR."),
    "/api/create": ("Creating models", _MODELS_HERE),
    "/api/copy": ("Copying models", _MODELS_HERE),
    "/api/blobs": ("Taking files", _MODELS_HERE),
    "/api/me": ("Signing in", _NO_ACCOUNTS),
    "/api/signout": ("Signing out", _NO_ACCOUNTS),
    "/api/experimental": ("Searching the web", "Do it where your client runs, as a tool."),
    "/api/web_search": ("Searching the web", "Do it where your client runs, as a tool."),
    "/api/web_fetch": ("Fetching pages", "Do it where your client runs, as a tool."),
}


def no_route(path: str) -> NotFound:
    """Say that nothing is at a path, and what to do instead where that is known.

    Args:
        path: what the client asked for.
    """
    for start, (thing, instead) in _ABSENT.items():
        if path == start or path.startswith(start + "/"):
            return NotDone(f"{thing}: not done by this service. {instead}")
    return NotFound("There is no such route. /docs shows the routes there are.")
