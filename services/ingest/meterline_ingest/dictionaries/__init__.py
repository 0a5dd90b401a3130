"""Dictionaries: subjects and series of each tenant get numbers, as many as its quotas allow."""
