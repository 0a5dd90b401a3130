"""Creates, lists and deletes meters, and records that something refers to one."""
