"""One file per command: from its options to a result; what several of them share has an underscore."""
