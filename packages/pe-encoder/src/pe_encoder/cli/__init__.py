"""The commands of pe-encoder, one file for each. The modules import nothing heavy."""
