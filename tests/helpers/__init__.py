"""What several test files use: small networks, commands, files and processes."""
