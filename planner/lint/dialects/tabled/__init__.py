"""Frameworks whose files name degrees and batches one by one, so that a table of keys is all that reads them."""
