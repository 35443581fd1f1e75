"""The command line: one module a command, between its options and its exit code.

Data goes to stdout, messages to stderr. Every command returns an exit code. The application imports the module of the
one command that it runs, so that none pays for another's dependencies.
"""
