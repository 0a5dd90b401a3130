"""Retention: old months are deleted unless a legal hold keeps them."""
