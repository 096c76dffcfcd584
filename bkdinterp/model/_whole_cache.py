"""The cache of keys and values that forgets nothing, whatever windows a model's layers have. No forwards."""

from transformers import DynamicCache

# Made without a config, its layers keep every token; with one they drop what is out of their window. The library's own
# class, so that a server finds it by name.
WHOLE_CACHE = DynamicCache
