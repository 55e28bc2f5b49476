"""What reads others' bytes, fed with damaged ones a million times: `python -m tests.fuzz.core`."""
