"""mlx-lm's own generation loops without a server: `python -m bench.mlx_loops FOLDER`.

Reads lines of JSON, `{"texts": […], "tokens": …}`, and writes `{"seconds": …, "tokens": …}` for
each. One text uses `stream_generate`, several texts use `BatchGenerator`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    """Load the model and process the lines."""
    from mlx_lm import load

    model, tokenizer = load(sys.argv[1])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        prompts = [list(tokenizer.encode(text)) for text in request["texts"]]
        start = time.monotonic()
        generate = _single if len(prompts) == 1 else _batch
        count = generate(model, tokenizer, prompts, request["tokens"])
        seconds = time.monotonic() - start
        print(json.dumps({"seconds": seconds, "tokens": count}), flush=True)


def _single(model: Any, tokenizer: Any, prompts: list[list[int]], tokens: int) -> int:
    from mlx_lm import stream_generate

    return sum(1 for _ in stream_generate(model, tokenizer, prompts[0], max_tokens=tokens))


def _batch(model: Any, tokenizer: Any, prompts: list[list[int]], tokens: int) -> int:
    from mlx_lm.generate import BatchGenerator

    ends = [[token] for token in tokenizer.eos_token_ids]
    generator = BatchGenerator(
        model,
        stop_tokens=ends,
        completion_batch_size=len(prompts),
        prefill_batch_size=len(prompts),
    )
    generator.insert(prompts, [tokens] * len(prompts))
    count, running = 0, len(prompts)
    while running:
        _, responses = generator.next()
        count += len(responses)
        running -= sum(response.finish_reason is not None for response in responses)
    generator.close()
    return count


if __name__ == "__main__":
    main()
