"""The commands of gazelle, one file for each. The modules import nothing heavy."""
