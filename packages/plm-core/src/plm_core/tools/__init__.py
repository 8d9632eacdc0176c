"""The work behind four commands, importable: bench, convert, matrix and tour."""
