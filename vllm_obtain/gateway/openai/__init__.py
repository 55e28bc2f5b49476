"""The OpenAI API: chat completions, completions, embeddings, rerank, tokenize."""
