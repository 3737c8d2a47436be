"""The command line: the group of verbs, what all verbs share, and one file for each verb."""
