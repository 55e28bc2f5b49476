"""The pool of models: loading, eviction, switching, updates and removal."""
