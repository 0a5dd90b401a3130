"""Capture: calls become batches, transactions and messages.

A call goes through `api`, `parse`, `admission`, `group_commit`, `pipeline` (judges by `rules`), `transaction`
(`numbering`, `details`, `repetitions`, `rejected`, `store`) and `message`.
"""
