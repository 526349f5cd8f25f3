"""Whatever can teach: its check, its classes, labels as its input, networks of other libraries."""
