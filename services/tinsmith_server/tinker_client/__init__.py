"""A Tinker service as a backend: what trainer and sampler share. All but `settings` and `required` needs `tinker`."""
