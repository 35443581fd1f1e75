"""Files that start a plan elsewhere: one module a target, and the templates that they fill."""
