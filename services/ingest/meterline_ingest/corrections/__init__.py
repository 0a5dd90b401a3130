"""Corrections: events amended, retracted and imported, one or many, with a dry run."""
