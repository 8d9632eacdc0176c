"""The recipe of the micro model that is shipped with this package."""
