"""The recipes of the shipped micro models, which ``plm retrain`` runs. `evaluate` in each gives the held-out scores."""
