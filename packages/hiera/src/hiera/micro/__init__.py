"""The recipes of the micro models that are shipped: what ``plm retrain`` runs. Each also has the score, `evaluate`."""
