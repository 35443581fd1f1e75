"""What each command does, between the options and the exit code.

Data goes to stdout, messages to stderr. Every function returns an exit code. The command line
imports the module of the one command it runs, so that none pays for another's dependencies.
"""
