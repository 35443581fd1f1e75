"""The command line: one module a command, with the struct of its options and what it does.

Data goes to stdout, messages to stderr. Every command returns an exit code. A command imports what it takes when it
runs, so that none pays for another's dependencies.
"""
