"""Tests of gptplan; shared builders are in :mod:`tests.helpers`."""
