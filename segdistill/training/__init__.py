"""The loop, and what it minimizes."""
