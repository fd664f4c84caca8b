"""Kubernetes as the controller uses it: a few kinds, six verbs, watches.

Why not lightkube or another client library: Debian 12 has none, and the suite runs on Debian's packages; its models of every kind
cost memory for the six that we read; and the store's contract needs what they hide (versions of deletions, bookmarks, 410 apart).
"""
