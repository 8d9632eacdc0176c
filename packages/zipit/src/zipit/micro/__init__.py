"""The recipes of the micro models, which ``plm retrain`` runs."""
