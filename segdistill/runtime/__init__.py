"""The process a command runs in: its signals, its device, its peers, and the way it talks to the user."""
