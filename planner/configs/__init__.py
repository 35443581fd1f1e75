"""Hand-written configurations: read without running them, judged by the rule table, repaired."""
