"""The parts of the models for dense prediction, which are in `hiera.hieradet` and `hiera.vitdet`."""
