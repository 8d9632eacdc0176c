"""The micro model that is shipped with this package: its tokenizer, and its training in three stages."""
