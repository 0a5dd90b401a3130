"""One function an RPC: what it does, in one transaction, in the words of the domain."""
