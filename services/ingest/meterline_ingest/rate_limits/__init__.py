"""Rate limits and quotas of tenants and plans: changed, cached, and spent by lease."""
