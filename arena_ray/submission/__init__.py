"""Sending a run to a cluster's job server: what is sent, what is run there, and what comes back."""
