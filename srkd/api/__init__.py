"""The public functions of srkd, one file for each verb whose work is not a run or a report."""
