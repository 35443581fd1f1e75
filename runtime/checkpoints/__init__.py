"""Training states to and from files that know no layout: one whole float32 tensor a parameter and moment."""
