"""404 errors for routes of other services that this one does not have, with an alternative."""

from __future__ import annotations

from vllm_obtain.errors import NotFound, NotImplementedRoute

_CHAT = "Store the conversation in your client and send it to /v1/chat/completions."
_FILES = "Include the content in the request that needs it."
_MODEL_FILES = "Copy model files into MODELS_DIR; they are detected automatically."
_ACCOUNTS = "This service has no accounts; manage API keys with `vllm-obtain keys`."
_TOOL = "Define a tool and run it in your client."

# The start of a path, the feature (singular), and the alternative.
_UNSUPPORTED = {
    "/v1/audio": ("Audio", "Run a separate speech service, such as whisper.cpp's server."),
    "/v1/images": ("Image generation", "Run a separate image service."),
    "/v1/videos": ("Video generation", "Run a separate video service."),
    "/v1/files": ("File storage", _FILES),
    "/v1/uploads": ("File storage", _FILES),
    "/v1/batches": (
        "Batch processing",
        "Send the requests concurrently; they are processed as one batch or queued.",
    ),
    "/v1/assistants": ("The Assistants API", _CHAT),
    "/v1/threads": ("The Threads API", _CHAT),
    "/v1/responses/compact": (
        "Compaction",
        "Ask the model for a summary with /v1/responses, and start a new conversation with it.",
    ),
    "/v1/conversations": ("The Conversations API", _CHAT),
    "/v1/chatkit": ("ChatKit", _CHAT),
    "/v1/fine_tuning": (
        "Fine-tuning",
        "Use a training tool, and copy the result into MODELS_DIR.",
    ),
    "/v1/vector_stores": ("Vector storage", "Run a separate vector database."),
    "/v1/moderations": ("Moderation", "Use a model with /v1/chat/completions."),
    "/v1/realtime": ("The Realtime API", "Use streaming with /v1/chat/completions."),
    "/v1/evals": ("The Evals API", "Run evaluations in your client."),
    "/v1/containers": ("Code execution", "Run code in your client."),
    "/v1/skills": ("The Skills API", "Write the instructions into the messages."),
    "/v1/edits": ("The Edits API", "Request the edit with /v1/chat/completions."),
    "/v1/engines": ("The Engines API", "List models with GET /v1/models."),
    "/v1/organization": ("Organization management", _ACCOUNTS),
    "/v1/projects": ("Project management", _ACCOUNTS),
    "/api/push": ("Uploading models to a registry", "Copy the files from MODELS_DIR."),
    "/api/create": ("Creating models", _MODEL_FILES),
    "/api/copy": ("Copying models", _MODEL_FILES),
    "/api/blobs": ("Uploading files", _MODEL_FILES),
    "/api/me": ("Signing in", _ACCOUNTS),
    "/api/signout": ("Signing out", _ACCOUNTS),
    "/api/experimental": ("Web search", _TOOL),
    "/api/web_search": ("Web search", _TOOL),
    "/api/web_fetch": ("Web page retrieval", _TOOL),
}


def no_route(path: str) -> NotFound:
    """Create the 404 error for a path without a route.

    Args:
        path: the path of the request.
    """
    for start, (feature, alternative) in _UNSUPPORTED.items():
        if path == start or path.startswith(start + "/"):
            return NotImplementedRoute(f"{feature} is not supported. {alternative}")
    return NotFound("The route does not exist. See /docs for the routes.")
