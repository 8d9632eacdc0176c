"""The scores: functions of features and labels, higher is better; by name through `parc.score`."""
