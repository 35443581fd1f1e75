"""The kinds of configuration file: what each key means, and the rules about them."""
