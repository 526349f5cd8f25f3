"""What people look at: pictures, curves, the model card."""
