"""Parts of the models for dense prediction, `hiera.hieradet` and `hiera.vitdet`."""
