"""Test doubles and pytest fixtures, for this project and for authors of plug-ins."""
