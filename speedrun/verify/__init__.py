"""The judge: what a log, and the folder of a record, must keep. No torch, and nothing of who made the log.

For others: verdict.verdicts(path), judge_log, judge_record, Verdict, Failure; rules.RULES and rules.page;
claim.claim; words.summary.
"""
