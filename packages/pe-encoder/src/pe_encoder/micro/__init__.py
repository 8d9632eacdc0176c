"""The recipes of the micro models that are shipped with this package."""
