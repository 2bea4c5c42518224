"""The ranks of one node: started, supervised, ended, diagnosed."""
